"""LeGrad heatmaps of vision transformers (arXiv 2404.03214): batched, exact and fast.

The engine works on tensors and pictures and has no part that knows the web. Importing this package
loads neither torch nor NumPy: names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from legrad_engine.errors import LegradError

if TYPE_CHECKING:
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

_HOMES = {
    "Explainer": "legrad_engine.explainer",
    "Explanation": "legrad_engine.explanation",
    "Geometry": "legrad_engine.images.geometry",
    "Negatives": "legrad_engine.targets.negatives",
    "Trace": "legrad_engine.trace",
}


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "legrad_engine.targets")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
