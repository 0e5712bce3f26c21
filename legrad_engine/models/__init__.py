"""Finding and loading models: the built-in one, open_clip's and timm's, and those of one's own."""

from legrad_engine.models.loading import (
    CatalogueEntry,
    LoadedModel,
    catalogue,
    load,
    normalization,
    probabilities,
)
from legrad_engine.models.reference import STARTER, ModelReference

__all__ = [
    "STARTER",
    "CatalogueEntry",
    "LoadedModel",
    "ModelReference",
    "catalogue",
    "load",
    "normalization",
    "probabilities",
]
