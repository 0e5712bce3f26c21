"""Trust: numbers about how far a map can be believed.

Importing this package loads no torch.
"""
