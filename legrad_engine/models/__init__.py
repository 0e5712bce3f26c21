"""Model references and loading: the built-in model, open_clip's and timm's models, own models."""

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
