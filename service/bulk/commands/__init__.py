"""Commands that ask, check or calibrate a model, and the options that all commands share."""
