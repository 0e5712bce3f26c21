"""The built-in model "starter": its weights, and the program that made them."""
