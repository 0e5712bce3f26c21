"""Model references and loading: the built-in model, open_clip's and timm's models, own models.

Importing this package loads no torch: names that need it are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.schemes import STARTER

if TYPE_CHECKING:
    from legrad_engine.models.loaded import LoadedModel
    from legrad_engine.models.loading import (
        CatalogueEntry,
        activation_of,
        catalogue,
        load,
        preprocessing_of,
        probabilities,
    )

__all__ = [
    "STARTER",
    "CatalogueEntry",
    "LoadedModel",
    "ModelReference",
    "Preprocessing",
    "activation_of",
    "catalogue",
    "load",
    "preprocessing_of",
    "probabilities",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("legrad_engine.models.loading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
