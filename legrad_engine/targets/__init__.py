"""What a picture can be asked about, and how that becomes unit vectors in the joint space."""

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
