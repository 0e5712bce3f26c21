"""Measurements: numbers about a picture and its targets, computed beside the maps.

Importing this package loads no torch.
"""
