"""Parts that the conversions of ``transformers`` models share: names, activations, widths."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.models.hugging_face.registry import Size, Weights

Rules = Sequence[tuple[str, str]]

# `hidden_act` in configs. The names of one line are one function, computed in different ways.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_python": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "gelu_fast": partial(nn.GELU, approximate="tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
}


def activation(name: str) -> Callable[[], nn.Module]:
    """Return the maker of a config's activation.

    Raises:
        UnsupportedModelError: unknown activation.
    """
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"The activation {name!r} in the model's config is not supported; supported are "
            f"{', '.join(_ACTIVATIONS)}.",
            field="model",
        )
    return _ACTIVATIONS[name]


def mlp_ratio(hidden: int, width: int) -> float:
    """Return a ratio that open_clip and timm turn back into exactly this number of hidden units."""
    return (hidden + 0.5) / width


def sides(value: Any) -> Size:
    """Return (height, width) of a config's size, which is one number or two."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def own_size(config: Any) -> Size:
    """Return (height, width) in pixels of ``image_size`` in the config of the image half."""
    return sides(getattr(config, "vision_config", config).image_size)


def rename(weights: Weights, rules: Rules) -> Weights:
    """Apply every rule (regular expression, replacement) to every name, in order."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def fuse(weights: Weights, parts: Sequence[str], whole: str) -> None:
    """Replace tensors by their concatenation, in every module that has all of them.

    Args:
        weights: tensors by name; changed in place.
        parts: endings of the names of the parts, in order.
        whole: ending of the name of their concatenation.
    """
    first = parts[0]
    for name in [name for name in weights if name.endswith(first)]:
        stem = name.removesuffix(first)
        names = [stem + part for part in parts]
        if all(part in weights for part in names):
            weights[stem + whole] = torch.cat([weights.pop(part) for part in names])


def drop(weights: Weights, pattern: str) -> None:
    """Remove tensors that have no part in the features, by a regular expression of their names."""
    for name in [name for name in weights if re.search(pattern, name)]:
        del weights[name]
