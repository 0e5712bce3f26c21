"""Loading of models: the built-in model, open_clip's and timm's models, own models."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD
from torch import Tensor, nn

from legrad_engine.devices import resolve_device, resolve_dtype
from legrad_engine.errors import LegradError, ModelLoadError, in_one_line
from legrad_engine.families import refusal
from legrad_engine.models import checkpoints, openclip_models, timm_models
from legrad_engine.models.image_model import ImageModel
from legrad_engine.models.openclip_weights import fill
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.schemes import OPENCLIP_FOLDER, OPENCLIP_HUB, STARTER, TIMM
from legrad_engine.targets.text import Tokenizer

STARTER_FOLDER = Path(__file__).parents[1] / "starter"

# An open_clip config has no field for them. The starter's tower was initialised from DINOv2, which
# uses ImageNet's statistics.
_STARTER_PREPROCESSING = {
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Model that is ready to be explained.

    Attributes:
        model: an open_clip model, or an :class:`ImageModel`, in evaluation mode.
        tokenizer: the text half's tokenizer; None for an image model.
        name: the model's name.
        licence: licence of the weights, an identifier of the model hub; None if unknown.
    """

    model: nn.Module
    tokenizer: Tokenizer | None
    name: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """Architecture of open_clip.

    Attributes:
        name: name in open_clip.
        tags: pretrained tags.
        refusal: reason why it cannot be explained; None if it can.
    """

    name: str
    tags: tuple[str, ...]
    refusal: str | None


def catalogue() -> list[CatalogueEntry]:
    """List every architecture of open_clip, judged by its config without building it."""
    return [
        CatalogueEntry(
            name,
            tuple(open_clip.list_pretrained_tags_by_model(name)),
            refusal(open_clip.get_model_config(name)),
        )
        for name in open_clip.list_models()
        if name != STARTER
    ]


def load(
    name: str,
    pretrained: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
) -> LoadedModel:
    """Load a model. Checkpoints are never unpickled beyond plain tensors.

    Args:
        name: see :class:`ModelReference`.
        pretrained: an open_clip tag or the path of a checkpoint. None for a name that includes its
            weights; with an open_clip architecture or config, None gives random weights.
        device: see :func:`legrad_engine.devices.resolve_device`.
        dtype: see :func:`legrad_engine.devices.resolve_dtype`.

    Raises:
        UnknownModelError: no such architecture, tag, config, folder or repository.
        ModelLoadError: the weights cannot be obtained or do not fit.
        UnsupportedModelError: the model's input is not a picture of three channels.
        InvalidOptionError: unknown device or dtype.
    """
    where, precision = resolve_device(device), resolve_dtype(dtype)
    reference = ModelReference(name, pretrained)
    try:
        reference.check()
        model, tokenizer, licence = _load(reference)
    except LegradError:
        raise
    # Configs and checkpoints of any origin can raise any exception in other libraries.
    except Exception as error:
        raise ModelLoadError(
            f"{reference.title} could not be loaded: {in_one_line(error)}.", field="model"
        ) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model = model.to(where, precision).eval()
    if tokenizer is None:
        model = ImageModel(model).eval()
    return LoadedModel(model, tokenizer, reference.title, licence)


def _load(reference: ModelReference) -> tuple[nn.Module, Tokenizer | None, str | None]:
    name, pretrained = reference.name, reference.pretrained
    if name.startswith(TIMM):
        visual, licence = timm_models.load(name, pretrained)
        return visual, None, licence
    if name == STARTER:
        config = openclip_models.config_of(str(STARTER_FOLDER / "starter.json"))
        model = openclip_models.build(config.model, _STARTER_PREPROCESSING)
        fill(model, checkpoints.read(STARTER_FOLDER / "starter.safetensors"))
        return model, openclip_models.tokenizer_of(config), "Apache-2.0"
    if pretrained is None and not name.startswith((OPENCLIP_HUB, OPENCLIP_FOLDER)):
        _logger.warning("%s has random weights: its heatmaps are meaningless", reference.title)
    return openclip_models.load(name, pretrained)


def normalization(model: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and standard deviation of a model's input, per channel for values in 0 to 1.

    Raises:
        ModelLoadError: the model's config does not give three numbers for each.
    """
    if isinstance(model, ImageModel):
        mean, std = model.mean, model.std
    else:
        settings: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
        mean, std = settings["mean"], settings["std"]
    if not (_are_three_numbers(mean) and _are_three_numbers(std) and min(std) > 0):
        raise ModelLoadError(
            "The mean and std in a model's config must be three numbers each, with no std of 0.",
            field="model",
        )
    return mean, std


def probabilities(model: nn.Module, similarities: Tensor) -> Tensor:
    """Compute the model's own probabilities of the targets of a picture.

    Args:
        model: an open_clip model with its logit scale, and its logit bias if it was trained with
            one; or an image model, which has neither, so that the logits are the cosines.
        similarities: ``[B, P]`` cosines.

    Returns:
        ``[B, P]``: a softmax over targets, or sigmoids if the model has a logit bias.
    """
    if isinstance(model, ImageModel):
        return similarities.softmax(-1)
    logits = similarities * model.logit_scale.exp()  # type: ignore[operator]
    if probability_kind(model) == "softmax":
        return logits.softmax(-1)
    return (logits + model.logit_bias).sigmoid()  # type: ignore[operator]


def probability_kind(model: nn.Module) -> Literal["softmax", "sigmoid"]:
    """Return how :func:`probabilities` compares targets: among themselves, or each alone."""
    return "softmax" if getattr(model, "logit_bias", None) is None else "sigmoid"


def _are_three_numbers(values: object) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )
