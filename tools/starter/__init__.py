"""Training program of the built-in model."""
