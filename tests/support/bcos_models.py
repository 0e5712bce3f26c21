"""Seeded B-cos ViTs of the package ``bcos``, in files as it saves them."""

import importlib
from pathlib import Path
from typing import Any

import torch

from legrad_engine import Explainer

TINY = "simple_vit_ti_patch16_224"
TINY_WITH_STEM = "vitc_ti_patch1_14"
CLASSES = 3


def package_model(name: str = TINY, classes: int = CLASSES) -> Any:
    """Return a model that the package built, with seeded weights, in evaluation mode."""
    package = importlib.import_module("bcos.models.pretrained")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(package, name)(pretrained=False, num_classes=classes)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                # Norms that are all ones would hide a norm left out.
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def write_bcos(folder: Path, name: str = TINY, classes: int = CLASSES) -> str:
    """Write the weights of :func:`package_model`; return the model's reference."""
    path = folder / f"{name}.pth"
    torch.save(package_model(name, classes).state_dict(), path)
    return f"bcos:{name}@{path}"


def both(folder: Path, name: str = TINY) -> tuple[Any, Explainer]:
    """Return a model as the package runs it and as the engine loads it, in float64."""
    return package_model(name).double(), Explainer.load(write_bcos(folder, name), dtype="float64")
