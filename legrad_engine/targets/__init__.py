"""Targets of an explanation, and their unit vectors in the joint space."""

from legrad_engine.targets.kinds import (
    ClassTarget,
    ContrastTarget,
    EmbeddingTarget,
    ImageTarget,
    ResidualTarget,
    SimpleTarget,
    Target,
    TargetKind,
    TextTarget,
)

__all__ = [
    "ClassTarget",
    "ContrastTarget",
    "EmbeddingTarget",
    "ImageTarget",
    "ResidualTarget",
    "SimpleTarget",
    "Target",
    "TargetKind",
    "TextTarget",
]
