"""Evaluation of every explanation method on the built-in model's scenes, for docs/methods.md."""
