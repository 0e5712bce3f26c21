"""Conversion of weights for open_clip models, and resampling to the config's input size."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_text_pos_embed
from open_clip.timm_model import TimmModel
from torch import nn

from legrad_engine.errors import ModelLoadError, in_one_line
from legrad_engine.families.positions import resample_positions
from legrad_engine.models.checkpoints import check_real_numbers
from legrad_engine.models.openclip_facts import OPENAI_METADATA

_logger = logging.getLogger(__name__)


def fill(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Load weights into a model, converted and resampled as open_clip does.

    Position embeddings for another input size are resampled, also those of timm's towers.

    Args:
        model: from :func:`legrad_engine.models.openclip_models.build`.
        checkpoint: tensors by parameter name, in any layout that open_clip reads.

    Raises:
        RuntimeError: names or shapes differ; torch's message lists them.
        ModelLoadError: a tensor of the checkpoint is of integers where the model has real numbers.
    """
    weights: dict[str, Any] = convert_state_dict(
        model, {name: value for name, value in checkpoint.items() if name not in OPENAI_METADATA}
    )
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):
        own, given = getattr(model, name, None), weights.get(name)
        if own is not None and given is not None and own.numel() == given.numel():
            weights[name] = given.reshape(own.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_scale" in weights:
        weights.setdefault("logit_bias", torch.zeros_like(weights["logit_scale"]))
    if _is_of_another_size(model, weights):
        settle(model)
    own_weights = model.state_dict()
    check_real_numbers(weights, own_weights)
    # Older versions of transformers saved this buffer among the weights.
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids not in own_weights:
        weights.pop(position_ids, None)
    _resample_vision(model, weights)
    _resample_text(model, weights, own_weights)
    model.load_state_dict(weights)


def settle(model: nn.Module) -> None:
    """Set a timm tower to the input size of its config; open_clip leaves it at timm's default.

    timm resamples the tower's current position embeddings, windows and rotary grids.

    Raises:
        ModelLoadError: the architecture does not support that size.
    """
    visual = model.visual
    trunk = getattr(visual, "trunk", None)
    built = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    if not isinstance(visual, TimmModel) or built is None or not hasattr(trunk, "set_input_size"):
        return
    size = tuple(visual.image_size)
    if tuple(built) == size:
        return
    try:
        visual.set_input_size(size)
    except Exception as error:
        raise ModelLoadError(
            f"{type(trunk).__name__} does not support the config's image_size {list(size)}: "
            f"{in_one_line(error)}.",
            field="model",
        ) from error


def _is_of_another_size(model: nn.Module, weights: Mapping[str, Any]) -> bool:
    """Tell whether weights for a timm tower differ in shape from the tower that timm builds."""
    return isinstance(model.visual, TimmModel) and any(
        name.startswith("visual.trunk.") and name in weights and weights[name].shape != own.shape
        for name, own in model.state_dict().items()
    )


def _resample_vision(model: nn.Module, weights: dict[str, Any]) -> None:
    visual = model.visual
    if isinstance(visual, TimmModel):
        name = "visual.trunk.pos_embed"
        own = getattr(visual.trunk, "pos_embed", None)
        grid = getattr(getattr(visual.trunk, "patch_embed", None), "grid_size", None)
    else:
        name = "visual.positional_embedding"
        own = getattr(visual, "positional_embedding", None)
        grid = getattr(visual, "grid_size", None)
    given = weights.get(name)
    if given is None or own is None or grid is None or given.ndim != own.ndim:
        return
    # Where the counts are equal, the checkpoint's grid is assumed to be that of the config.
    prefix = own.shape[-2] - grid[0] * grid[1]
    if given.shape != own.shape and given.shape[-1] == own.shape[-1] and given.shape[-2] > prefix:
        flat = given.reshape(-1, given.shape[-1])
        given_grid = _grid_of(len(flat) - prefix, grid)
        _logger.warning(
            "The checkpoint's position embeddings are for %d x %d patches and are resampled to "
            "%d x %d. A config with the image_size of the weights keeps them: CONFIG.json@PATH",
            *(*given_grid, *grid),
        )
        resampled = resample_positions(flat, given_grid, tuple(grid), prefix)
        weights[name] = resampled.reshape(own.shape)


def _grid_of(patches: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Infer the (rows, columns) of a number of patches: a square, else a scaled copy of the grid.

    A checkpoint does not store its grid.

    Raises:
        ValueError: the number of patches fits neither.
    """
    side = math.isqrt(patches)
    if side * side == patches:
        return side, side
    scale = math.sqrt(patches / (grid[0] * grid[1]))
    rows, columns = round(grid[0] * scale), round(grid[1] * scale)
    if rows * columns != patches or rows * grid[1] != columns * grid[0]:
        raise ValueError(
            f"its position embeddings are for {patches} patches, which is neither a square nor of "
            f"the proportions of the config's {grid[0]} x {grid[1]}: give the config the "
            "image_size that the weights were made for"
        )
    return rows, columns


def _resample_text(
    model: nn.Module, weights: dict[str, Any], own_weights: Mapping[str, Any]
) -> None:
    for name in ("positional_embedding", "text.positional_embedding"):
        given, own = weights.get(name), own_weights.get(name)
        if given is not None and own is not None and given.shape[1:] == own.shape[1:]:
            resize_text_pos_embed(weights, model)
