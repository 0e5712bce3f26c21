"""Rollout equals the product of whole matrices, which the engine never multiplies."""

from typing import Any

import pytest
import torch
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import find_tower
from legrad_engine.methods import reading
from legrad_engine.methods.registry import find_method
from tests.support.architectures import seeded_model
from tests.support.explicit_attention import TIMM_QUERIES, openclip_weights, timm_weights
from tests.support.plain_timm import plain_model
from tests.support.tower_methods import (
    largest_difference,
    maps_of,
    seeded_pixels,
    seeded_targets,
)


def rolled_out(blocks: list[Tensor]) -> Tensor:
    """The product ``[N, N]`` of all blocks' matrices, the last one leftmost."""
    product = torch.eye(blocks[0].shape[-1], dtype=torch.float64)
    for weights in blocks:
        matrix = weights.mean(0) + torch.eye(weights.shape[-1], dtype=torch.float64)
        product = matrix / matrix.sum(-1, keepdim=True) @ product
    return product


@pytest.mark.parametrize("queries", [("tok", slice(0, 1)), ("avg", slice(1, None))], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (96, 64)], ids=str)
def test_openclip_towers(
    queries: tuple[str, slice], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The weights are computed in pieces of a few queries.
    monkeypatch.setattr(reading, "_CHUNK_ELEMENTS", 300)
    pool, rows = queries
    vision: dict[str, Any] = {"pool_type": pool, "image_size": list(size)}
    pixels = seeded_pixels(2, *size)
    tower = find_tower(seeded_model(**vision))
    visual: Any = seeded_model(**vision).double().visual
    for layers in ("all", 2):
        targets = seeded_targets(2, 2, tower.embedding_size)
        found = maps_of(tower, "rollout", pixels, targets, layers=layers)
        for image in range(2):
            weights = openclip_weights(visual, pixels[image])
            kept = weights if layers == "all" else weights[-2:]
            expected = rolled_out(kept)[rows, 1:].mean(0).view(found.shape[-2:])
            for target in range(2):
                assert largest_difference(found[image, target], expected) < 1e-5


@pytest.mark.parametrize("model", TIMM_QUERIES)
def test_timm_towers(model: str) -> None:
    rows, prefix = TIMM_QUERIES[model]
    tower = find_tower(plain_model(model))
    pixels = seeded_pixels(1, *tower.image_size).double()
    found = maps_of(tower, "rollout", pixels, seeded_targets(1, 1, tower.embedding_size))
    weights = timm_weights(plain_model(model), pixels[0])
    product = rolled_out(weights[: tower.depth])
    first = torch.eye(len(product), dtype=torch.float64)[rows].mean(0)
    if len(weights) > tower.depth:
        first = weights[-1].mean((0, 1))
    expected = (first @ product)[prefix:].view(found.shape[-2:])
    assert largest_difference(found[0, 0], expected) < 1e-10


def test_a_gap_between_blocks_is_refused() -> None:
    tower = find_tower(seeded_model())
    method = find_method("rollout", tower)
    assert method.layers(tower, None) == (0, 1, 2)
    assert method.layers(tower, [1, 2]) == (1, 2)
    for layers in ([0, 2], [0, 1]):
        with pytest.raises(InvalidOptionError, match="a number of last blocks"):
            method.layers(tower, layers)
