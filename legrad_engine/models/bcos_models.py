"""B-cos ViTs of the package ``bcos``, by name and checkpoint.

The package is an optional extra. Its own code builds the models; it downloads nothing.
"""

import importlib
import importlib.util
import math
from typing import Any

import torch
from torch import nn

from legrad_engine.errors import ModelLoadError, UnknownModelError, UnsupportedModelError
from legrad_engine.families.bcos_vit import BcosViT
from legrad_engine.models import checkpoints
from legrad_engine.models.image_model import ImageModel
from legrad_engine.models.loaded import LoadedModel
from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.remote_weights import fetched, is_there
from legrad_engine.models.schemes import BCOS

_PACKAGES = ("bcos", "einops")
# The package's experiments, and their models of B-cos units; others are plain ViTs.
_EXPERIMENTS, _PREFIX = "vit_final", "bcos_"
_STANDARD = "standard_"
_CLASSES = 1000
_CLASSIFIER = "linear_head.linear.linear.weight"

_PREPROCESSING = Preprocessing(
    mean=BcosViT.pretrained_cfg["mean"],
    std=BcosViT.pretrained_cfg["std"],
    interpolation="bilinear",
    resize_mode="shortest",
    fill_color=(0, 0, 0),
    source="the package bcos",
)


def check(reference: ModelReference) -> None:
    """Refuse a model that is certain to fail, before any download, building or reading.

    Args:
        reference: ``bcos:NAME`` with the path or URI of a checkpoint.

    Raises:
        UnknownModelError: no such architecture.
        UnsupportedModelError: a network of the package that is no B-cos ViT.
        ModelLoadError: a missing package, or no checkpoint.
    """
    url = _published(reference.name)
    if reference.pretrained is None:
        raise ModelLoadError(
            f"{reference.name} does not say where its weights are: download {url} and give its "
            f"path, {reference.name}@PATH.",
            field="model",
        )
    if not is_there(reference.pretrained):
        raise ModelLoadError(f"There is no checkpoint at {reference.pretrained!r}.", field="model")


def load(reference: ModelReference) -> LoadedModel:
    """Load a model with its weights in float32 on the CPU; they tell the number of classes.

    Raises:
        UnknownModelError, UnsupportedModelError, ModelLoadError: see :func:`check`; or the weights
            do not fit.
    """
    _published(reference.name)
    path = fetched(reference.pretrained or "")
    weights = checkpoints.read(path)
    classifier = weights.get(_CLASSIFIER)
    model = _build(reference.name, _CLASSES if classifier is None else len(classifier))
    checkpoints.check_real_numbers(weights, model.trunk.state_dict())
    try:
        model.trunk.load_state_dict(weights)
    except Exception as error:
        raise checkpoints.misfit(path, error) from error
    return LoadedModel(
        name=reference.title,
        model=ImageModel(model),
        tokenizer=None,
        preprocessing=_PREPROCESSING,
    )


def without_values(name: str) -> nn.Module:
    """Build a model on torch's meta device, to measure it."""
    _published(name)
    with torch.device("meta"):
        return _build(name, _CLASSES)


def _build(name: str, classes: int) -> BcosViT:
    make = getattr(_package(), name.removeprefix(BCOS))
    trunk, _ = make(pretrained=False, num_classes=classes)
    # The weights do not hold the bias. The package's is that of equally likely classes.
    return BcosViT(trunk, -math.log(classes - 1) if classes > 1 else 0.0)


def _published(name: str) -> str:
    """Return the address of an architecture's published weights.

    Raises:
        UnknownModelError, UnsupportedModelError, ModelLoadError: see :func:`check`.
    """
    missing = [each for each in _PACKAGES if importlib.util.find_spec(each) is None]
    if missing:
        raise ModelLoadError(
            f"{name} needs the packages bcos and einops, of which {' and '.join(missing)} cannot "
            "be found: pip install 'legrad-service[bcos]'.",
            field="model",
        )
    package, architecture = _package(), name.removeprefix(BCOS)
    known: dict[str, str] = {
        each.removeprefix(_PREFIX): url
        for each, url in package.URLS[_EXPERIMENTS].items()
        if each.startswith(_PREFIX)
    }
    if architecture in known:
        return known[architecture]
    offered = f"Its B-cos ViTs are {', '.join(known)}."
    if architecture not in package.list_available():
        raise UnknownModelError(
            f"The package bcos has no architecture {architecture!r}. {offered}", field="model"
        )
    reason = (
        "it is a plain ViT without B-cos units; the nearest that is explained is "
        f"{BCOS}{architecture.removeprefix(_STANDARD)}"
        if architecture.startswith(_STANDARD)
        else "it is a convolutional network without attention over a patch grid"
    )
    raise UnsupportedModelError(f"{name} cannot be explained: {reason}. {offered}", field="model")


def _package() -> Any:
    return importlib.import_module("bcos.models.pretrained")
