"""Facts about an open_clip model that only its weights tell, or that nothing tells."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from torch import Tensor

from legrad_engine.models.reference import ModelReference

# Entries beside the weights in the state_dict of OpenAI's TorchScript files.
OPENAI_METADATA = ("input_resolution", "context_length", "vocab_size")

_QUICK = "-quickgelu"
_VISION_BLOCK = re.compile(r"visual\.transformer\.resblocks\.\d+\.ln_1\.weight")

_logger = logging.getLogger(__name__)


def with_own_context(
    reference: ModelReference, config: dict[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return a config with the context length of a checkpoint that was tuned at another one.

    The config of an architecture states the length of its published weights; a config of the user's
    own is kept as it is.

    Args:
        reference: the model.
        config: the model config, as in open_clip's ``model_configs``.
        weights: the checkpoint's.
    """
    text = config["text_cfg"]
    positions = weights.get("positional_embedding", weights.get("text.positional_embedding"))
    if reference.name.endswith(".json") or positions is None or positions.ndim != 2:
        return config
    length = len(positions) - bool(text.get("embed_cls"))
    if length < 1 or length == text.get("context_length", DEFAULT_CONTEXT_LENGTH):
        return config
    _logger.warning(
        "%s: the checkpoint's text tower reads %d tokens, which is not the architecture's context; "
        "prompts may be as long as the checkpoint's",
        *(reference.title, length),
    )
    return {**config, "text_cfg": {**text, "context_length": length}}


def fitting_architectures(weights: Mapping[str, Tensor]) -> list[str]:
    """List the architectures with open_clip's own towers that have the shapes of a checkpoint.

    Args:
        weights: the checkpoint's.
    """
    patches, projection = weights.get("visual.conv1.weight"), weights.get("visual.proj")
    text = weights.get("ln_final.weight", weights.get("text.ln_final.weight"))
    if patches is None or projection is None or text is None or patches.ndim != 4:
        return []
    blocks = sum(bool(_VISION_BLOCK.fullmatch(name)) for name in weights)
    shape = (len(patches), patches.shape[-1], blocks, projection.shape[-1], len(text))
    return [
        name
        for name in open_clip.list_models()
        if _shape_of(open_clip.get_model_config(name)) == shape
    ]


def _shape_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
    vision, text = config["vision_cfg"], config["text_cfg"]
    return (
        vision.get("width"),
        vision.get("patch_size"),
        vision.get("layers"),
        config["embed_dim"],
        text.get("width"),
    )


def warn_of_activation(
    reference: ModelReference, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Warn where weights were, or may have been, trained with another GELU than the config's.

    Args:
        reference: the model.
        config: the model config, as in open_clip's ``model_configs``.
        weights: the checkpoint's, before their conversion.
    """
    name, tag = reference.name, reference.origin or reference.pretrained
    record = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    is_quick = bool(config.get("quick_gelu", False))
    other = name.removesuffix(_QUICK) if is_quick else f"{name}{_QUICK}"
    has_metadata = all(each in weights for each in OPENAI_METADATA)
    if record or has_metadata:
        if (record.get("quick_gelu", False) or has_metadata) != is_quick:
            _logger.warning(
                "%s was trained with a GELU that differs from that of %s: its answers are wrong. "
                "Use %s",
                *(f"{name}/{tag}" if record else reference.title, reference.title, other),
            )
    elif not is_quick and other in open_clip.list_models():
        _logger.warning(
            "%s: a checkpoint does not tell its activation. If it was made from OpenAI's, DFN's or "
            "MetaCLIP's weights, use %s@PATH; if not, name the tag that it was made from, "
            "%s/TAG@PATH, and this warning goes",
            *(reference.title, other, name),
        )
