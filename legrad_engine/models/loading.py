"""Loading models: the built-in one, open_clip's and timm's, and those of one's own."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from legrad_engine.models.reference import STARTER, ModelReference
from legrad_engine.targets.text import Tokenizer

STARTER_FOLDER = Path(__file__).parents[1] / "starter"

# An open_clip config has no place for it: the starter's tower began as a DINOv2, on these.
_STARTER_PREPROCESSING = {
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be explained.

    Attributes:
        model: an open_clip model, or an :class:`ImageModel`, in evaluation mode.
        tokenizer: the text half's tokenizer; None for an image model.
        name: what to call it.
        licence: of the weights, an identifier as the model hub writes it; None if not known.
    """

    model: nn.Module
    tokenizer: Tokenizer | None
    name: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """An architecture that open_clip knows.

    Attributes:
        name: its name in open_clip.
        tags: its pretrained tags.
        refusal: why it cannot be explained, or None where it can.
    """

    name: str
    tags: tuple[str, ...]
    refusal: str | None


def catalogue() -> list[CatalogueEntry]:
    """Every architecture of open_clip, judged by its config; nothing is built or loaded."""
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
    """Loads a model. Checkpoints are never unpickled beyond plain tensors.

    Args:
        name: see :class:`ModelReference`.
        pretrained: an open_clip tag or the path of a checkpoint. None where the name brings its
            weights with it; random weights for an open_clip architecture or config.
        device: see :func:`legrad_engine.devices.resolve_device`.
        dtype: see :func:`legrad_engine.devices.resolve_dtype`.

    Raises:
        UnknownModelError: no such architecture, tag, config, folder or repository.
        ModelLoadError: the weights cannot be had or do not fit.
        UnsupportedModelError: a model that reads no pictures.
        InvalidOptionError: unknown device or dtype.
    """
    where, precision = resolve_device(device), resolve_dtype(dtype)
    reference = ModelReference(name, pretrained)
    try:
        reference.check()
        model, tokenizer, licence = _load(reference)
    except LegradError:
        raise
    # Configs and checkpoints are anybody's: what they can break in other libraries has no end.
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
    if name.startswith(timm_models.SCHEMA):
        visual, licence = timm_models.load(name, pretrained)
        return visual, None, licence
    if name == STARTER:
        config = openclip_models.config_of(str(STARTER_FOLDER / "starter.json"))
        model = openclip_models.build(config.model, _STARTER_PREPROCESSING)
        fill(model, checkpoints.read(STARTER_FOLDER / "starter.safetensors"))
        return model, openclip_models.tokenizer_of(config), "Apache-2.0"
    if pretrained is None and not name.startswith((openclip_models.HUB, openclip_models.FOLDER)):
        _logger.warning("%s has random weights: its heatmaps mean nothing", reference.title)
    return openclip_models.load(name, pretrained)


def normalization(model: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and standard deviation, per channel for values in 0 to 1, that a model expects.

    Raises:
        ModelLoadError: the model's config has something else in their place.
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
    """How the model itself would weigh the targets against each other.

    Args:
        model: an open_clip model with its logit scale, and bias where it was trained with one; or
            an image model, which has neither: its targets are weighed by their cosines alone.
        similarities: ``[B, P]`` cosines.

    Returns:
        ``[B, P]``: a softmax over targets, or sigmoids where the model has a logit bias.
    """
    if isinstance(model, ImageModel):
        return similarities.softmax(-1)
    logits = similarities * model.logit_scale.exp()  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    return logits.softmax(-1) if bias is None else (logits + bias).sigmoid()


def _are_three_numbers(values: object) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )
