"""Explanation methods on image towers alone: no preprocessing, no targets in words."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.families import Tower
from legrad_engine.families.scores import Score
from legrad_engine.layers import Layers
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.rectified_product import sum_rectified_product
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.registry import find_method


def maps_of(
    tower: Tower,
    name: str,
    pixels: Tensor,
    targets: Tensor,
    *,
    layers: Layers | None = None,
    score: Score | None = None,
) -> Tensor:
    """Return a method's maps ``[B, P, rows, columns]`` of pixels ``[B, 3, H, W]``."""
    method: Method[Any] = find_method(name, tower)
    height, width = pixels.shape[-2:]
    sized = tower.at((height, width))
    indices = method.layers(tower, layers)
    head = tower.score_head(method.score(tower, score))

    def folded(index: int) -> FoldedBlock:
        known = tower.known_block(index)
        assert known is not None
        return FoldedBlock.fold(known)

    with torch.no_grad():
        blocks, features = method.trace(sized, sized.embed(pixels), indices, head)
        served = tower.served_head()
        tokens = sized.embed(pixels)
        for index in range(tower.depth):
            tokens = sized.forward_block(tokens, index)
        torch.testing.assert_close(features, served.features(served.state(tokens)))
        parts = ModelParts(folded, sum_rectified_product)
        maps = method.maps(sized, blocks, indices, head, targets, parts)
    rows, columns = tower.patch_size
    return maps.reshape(*maps.shape[:2], height // rows, width // columns)


def seeded_pixels(batch: int, height: int, width: int) -> Tensor:
    """Return random pixels ``[batch, 3, height, width]`` in float32."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator)


def seeded_targets(batch: int, count: int, size: int) -> Tensor:
    """Return random unit vectors ``[batch, count, size]`` in float32."""
    generator = torch.Generator().manual_seed(2)
    return F.normalize(torch.randn(batch, count, size, generator=generator), dim=-1)


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())
