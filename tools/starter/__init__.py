"""The training program of the built-in model."""
