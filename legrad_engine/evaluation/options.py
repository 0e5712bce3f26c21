"""Options of maps that are measured. Importing this module loads no torch."""

from dataclasses import dataclass

from legrad_engine.families.scores import Score
from legrad_engine.images.fits import Fit
from legrad_engine.layers import Layers
from legrad_engine.targets.templates import Templates


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How maps are computed, the same for every sample.

    Attributes:
        layers: explained blocks, see :meth:`Explainer.resolve_layers`; None for the method's own.
        score: the explained score; None for the method's own.
        size: side of the model's input in pixels; None for the model's own.
        fit: how pictures are fitted to the input.
        templates: templates of the prompts, around the names of classes; None for the bare names.
    """

    layers: Layers | None = None
    score: Score | None = None
    size: int | None = None
    fit: Fit = "squash"
    templates: Templates = None
