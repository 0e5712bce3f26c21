"""Architecture families: one file each, which registers itself with the registry.

Importing this package loads no torch; the family files are imported when the registry is first
asked.
"""

from typing import TYPE_CHECKING

from legrad_engine.families.registry import find_tower, refusal, timm_refusal
from legrad_engine.families.scores import SCORES, Score

if TYPE_CHECKING:
    from legrad_engine.families.base import Tower

__all__ = ["SCORES", "Score", "Tower", "find_tower", "refusal", "timm_refusal"]


def __getattr__(name: str) -> object:
    if name == "Tower":
        from legrad_engine.families.base import Tower

        return Tower
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
