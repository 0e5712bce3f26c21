"""The built-in model "starter": its weights, config and concepts."""
