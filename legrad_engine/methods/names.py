"""Names of options of explanation methods. Importing this module loads no torch."""

from typing import Literal

DEFAULT_METHOD = "legrad"

Heads = Literal["mean", "each"]

TakenLayers = Literal["any", "last-blocks", "last", "all"]
"""Blocks that a method can explain: any, a number of last ones without a gap, the last, or all."""
