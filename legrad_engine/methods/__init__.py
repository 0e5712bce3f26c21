"""Explanation methods, one file each. Importing this package loads no torch."""

from legrad_engine.methods.names import DEFAULT_METHOD, Heads, TakenLayers

__all__ = ["DEFAULT_METHOD", "Heads", "TakenLayers"]
