"""Loading of models: the built-in model, models of other libraries, own models."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import open_clip
import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD
from torch import Tensor, nn

from legrad_engine.devices import resolve_device, resolve_dtype
from legrad_engine.errors import LegradError, ModelLoadError, in_one_line
from legrad_engine.families import refusal
from legrad_engine.models import (
    bcos_models,
    checkpoints,
    openclip_models,
    openclip_preprocessing,
    timm_models,
    timm_preprocessing,
    transformers_models,
)
from legrad_engine.models.image_model import ImageModel
from legrad_engine.models.loaded import LoadedModel
from legrad_engine.models.openclip_tokenizers import tokenizer_of
from legrad_engine.models.openclip_weights import fill
from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.schemes import (
    BCOS,
    OPENCLIP_FOLDER,
    OPENCLIP_HUB,
    STARTER,
    TIMM,
    TRANSFORMERS,
)
from legrad_engine.targets.classifier import Activation

STARTER_FOLDER = Path(__file__).parents[1] / "starter"

# An open_clip config has no field for them. The starter's tower was initialised from DINOv2, which
# uses ImageNet's statistics.
_STARTER_PREPROCESSING = Preprocessing(
    mean=IMAGENET_MEAN, std=IMAGENET_STD, resize_mode="squash", source="the built-in model"
)

_logger = logging.getLogger(__name__)


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
    name: str | ModelReference,
    pretrained: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
) -> LoadedModel:
    """Load a model. Checkpoints are never unpickled beyond plain tensors.

    Args:
        name: a reference, or a text, see :meth:`ModelReference.of`.
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
    reference = name if isinstance(name, ModelReference) else ModelReference.of(name, pretrained)
    try:
        reference.check()
        loaded = _load(reference)
    except LegradError:
        raise
    # Configs and checkpoints of any origin can raise any exception in other libraries.
    except Exception as error:
        raise ModelLoadError(
            f"{reference.title} could not be loaded: {in_one_line(error)}.", field="model"
        ) from error
    if _has_random_weights(reference):
        _logger.warning("%s has random weights: its heatmaps are meaningless", reference.title)
    else:
        _report(reference, loaded.preprocessing)
    model = loaded.model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return replace(loaded, model=model.to(where, precision).eval())


def _load(reference: ModelReference) -> LoadedModel:
    name = reference.name
    if name.startswith(TIMM):
        return timm_models.load(reference)
    if name.startswith(TRANSFORMERS):
        return transformers_models.load(reference)
    if name.startswith(BCOS):
        return bcos_models.load(reference)
    if name == STARTER:
        config = openclip_models.config_of(str(STARTER_FOLDER / "starter.json"))
        model = openclip_models.build(config.model)
        fill(model, checkpoints.read(STARTER_FOLDER / "starter.safetensors"))
        return LoadedModel(
            name=reference.title,
            model=model,
            tokenizer=tokenizer_of(config.model["text_cfg"]),
            preprocessing=_STARTER_PREPROCESSING,
            licence="Apache-2.0",
        )
    return openclip_models.load(reference)


def _has_random_weights(reference: ModelReference) -> bool:
    brings_weights = reference.name.startswith((TIMM, TRANSFORMERS, OPENCLIP_HUB, OPENCLIP_FOLDER))
    return reference.pretrained is None and reference.name != STARTER and not brings_weights


def _report(reference: ModelReference, preprocessing: Preprocessing) -> None:
    if not preprocessing.is_guess:
        _logger.info("%s: preprocessing of %s", reference.title, preprocessing.source)
        return
    _logger.warning(
        "%s: mean, standard deviation and interpolation of its pictures are a guess (%s). If they "
        "are wrong, so is every answer. State them in the model's config, or name the tag that "
        "the weights were made from: NAME/TAG@PATH, timm:NAME.TAG@PATH",
        *(reference.title, preprocessing.source),
    )


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Read the preprocessing that a model in memory carries, as open_clip and timm attach it.

    Raises:
        ModelLoadError: a value is of another type or outside its range.
    """
    if isinstance(model, ImageModel):
        return timm_preprocessing.attached(model.visual)
    return openclip_preprocessing.of_config(open_clip.get_model_preprocess_cfg(model))


def activation_of(model: nn.Module) -> Activation | None:
    """Return how a model's probabilities are made; None if it gives none."""
    if isinstance(model, ImageModel):
        return None if model.classifier is None else model.classifier.activation
    return "softmax" if getattr(model, "logit_bias", None) is None else "sigmoid"


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
    if activation_of(model) == "softmax":
        return logits.softmax(-1)
    return (logits + model.logit_bias).sigmoid()  # type: ignore[operator]
