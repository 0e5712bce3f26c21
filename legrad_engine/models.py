"""Finding and loading models: the built-in one, open_clip's architectures, local checkpoints."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD
from torch import Tensor, nn

from legrad_engine.devices import resolve_device, resolve_dtype
from legrad_engine.errors import ModelLoadError, UnknownModelError
from legrad_engine.families import refusal
from legrad_engine.text import Tokenizer

STARTER = "starter"
STARTER_FOLDER = Path(__file__).parent / "starter"

# An open_clip config has no place for it: the starter's tower began as a DINOv2, on these.
_STARTER_PREPROCESSING = {
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model as people write it in a setting or on a command line.

    Attributes:
        name: ``"starter"``, an open_clip architecture, or the path of an open_clip JSON config.
        pretrained: an open_clip tag or the path of a checkpoint; None for the starter alone.
    """

    name: str
    pretrained: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Reads ``starter``, ``ViT-B-16/laion2b_s34b_b88k`` or ``ViT-B-16@weights.safetensors``.

        Raises:
            UnknownModelError: neither the built-in model nor a name with its weights.
        """
        text = text.strip()
        if text == STARTER:
            return cls(STARTER)
        name, _, path = text.partition("@" if "@" in text else "/")
        if not name or not path:
            raise UnknownModelError(
                f"Model {text!r} does not say which weights: write NAME/TAG, such as "
                "ViT-B-16/laion2b_s34b_b88k, or NAME@PATH for a local checkpoint, or 'starter'."
                + _tags_of(name),
                field="model",
            )
        return cls(name, path)

    def check(self) -> None:
        """Refuses what can be known to fail before anything is loaded.

        Raises:
            UnknownModelError: no such architecture or tag.
            ModelLoadError: no such checkpoint.
        """
        if self.pretrained is not None:
            _check_weights(_architecture(self.name), self.pretrained)

    @property
    def id(self) -> str:
        """A name that is safe in a URL: lower case letters, digits, ``.``, ``_`` and ``-``."""
        name = Path(self.name).stem if self.name.endswith(".json") else self.name
        parts = [name]
        if self.pretrained is not None:
            parts.append(Path(self.pretrained).stem)
        return re.sub(r"[^a-z0-9._]+", "-", "-".join(parts).lower()).strip("-.")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An open_clip model with its tokenizer, ready to be explained."""

    model: nn.Module
    tokenizer: Tokenizer
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
    """Loads a model through open_clip. Checkpoints are never unpickled beyond plain tensors.

    Args:
        name: ``"starter"``, an open_clip architecture, or the path of an open_clip JSON config.
        pretrained: an open_clip tag, the path of a checkpoint, or None for random weights.
        device: see :func:`legrad_engine.devices.resolve_device`.
        dtype: see :func:`legrad_engine.devices.resolve_dtype`.

    Raises:
        UnknownModelError: no such architecture or tag.
        ModelLoadError: the weights cannot be had or do not fit.
        InvalidOptionError: unknown device or dtype.
    """
    where, precision = resolve_device(device), resolve_dtype(dtype)
    is_starter = name == STARTER
    if is_starter:
        name = str(STARTER_FOLDER / "starter.json")
        pretrained = str(STARTER_FOLDER / "starter.safetensors")
    architecture = _architecture(name)
    if pretrained is None:
        _logger.warning("%s has random weights: its heatmaps mean nothing", architecture)
    else:
        _check_weights(architecture, pretrained)
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=pretrained,
            force_preprocess_cfg=_STARTER_PREPROCESSING if is_starter else None,
            weights_only=True,
            # Weights come as a whole or not at all: never from a hub behind the caller's back.
            pretrained_text=False,
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise ModelLoadError(
            f"{architecture} with weights {pretrained!r} could not be loaded: {error}. If the "
            "model hub is out of reach, give the path of a local checkpoint instead of a tag.",
            field="model",
        ) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return LoadedModel(
        model.to(where, precision).eval(),
        tokenizer,
        architecture,
        "Apache-2.0" if is_starter else None,
    )


def normalization(model: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and standard deviation, per channel for values in 0 to 1, that a model expects."""
    settings: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
    return settings["mean"], settings["std"]


def probabilities(model: nn.Module, similarities: Tensor) -> Tensor:
    """How the model itself would weigh the targets against each other.

    Args:
        model: an open_clip model with its logit scale, and bias where it was trained with one.
        similarities: ``[B, P]`` cosines.

    Returns:
        ``[B, P]``: a softmax over targets, or sigmoids where the model has a logit bias.
    """
    logits = similarities * model.logit_scale.exp()  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    return logits.softmax(-1) if bias is None else (logits + bias).sigmoid()


def _architecture(name: str) -> str:
    if name.endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise UnknownModelError(f"There is no model config at {name!r}.", field="model")
        _check_config(path)
        open_clip.add_model_config(path)
        name = path.stem
    if name not in open_clip.list_models():
        raise UnknownModelError(
            f"open_clip has no architecture {name!r}; `legrad models --all` lists those it has.",
            field="model",
        )
    return name


def _check_config(path: Path) -> None:
    # open_clip never forgets a file it was given: a damaged one would spoil every later load.
    try:
        settings = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelLoadError(
            f"The model config {str(path)!r} is not JSON: {error}.", field="model"
        ) from error
    if not isinstance(settings, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(
        settings
    ):
        raise ModelLoadError(
            f"The model config {str(path)!r} must be an object with embed_dim, vision_cfg and "
            "text_cfg, as in open_clip's model_configs.",
            field="model",
        )


def _check_weights(architecture: str, pretrained: str) -> None:
    if Path(pretrained).is_file():
        return
    if Path(pretrained).suffix or "/" in pretrained:
        raise ModelLoadError(f"There is no checkpoint at {pretrained!r}.", field="model")
    if not open_clip.get_pretrained_cfg(architecture, pretrained):
        raise UnknownModelError(
            f"{architecture} has no pretrained tag {pretrained!r}." + _tags_of(architecture),
            field="model",
        )


def _tags_of(architecture: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return f" open_clip's tags for {architecture}: {', '.join(tags)}." if tags else ""
