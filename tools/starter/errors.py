"""Refusals of the training program, told without a traceback."""


class StarterError(ValueError):
    """A command cannot do what it was asked for; the message has the reason and the remedy."""
