"""LeGrad (arXiv 2404.03214): where a vision transformer looked, batched, exact and fast.

The engine knows tensors and pictures, and nothing of the web.
"""

from legrad_engine.errors import LegradError
from legrad_engine.explainer import Explainer
from legrad_engine.explanation import Explanation
from legrad_engine.images.geometry import Geometry
from legrad_engine.targets import (
    ClassTarget,
    ContrastTarget,
    EmbeddingTarget,
    ImageTarget,
    ResidualTarget,
    TextTarget,
)
from legrad_engine.targets.negatives import Negatives
from legrad_engine.trace import Trace

__all__ = [
    "ClassTarget",
    "ContrastTarget",
    "EmbeddingTarget",
    "Explainer",
    "Explanation",
    "Geometry",
    "ImageTarget",
    "LegradError",
    "Negatives",
    "ResidualTarget",
    "TextTarget",
    "Trace",
]
