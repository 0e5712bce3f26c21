"""Maps of a method on a tower, without a picture."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.families import find_tower
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.rectified_product import sum_rectified_product
from legrad_engine.methods.base import ModelParts
from legrad_engine.methods.registry import find_method


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded normal values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def unit_vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded vectors of length 1 along the last dimension."""
    return F.normalize(noise(*shape, seed=seed, dtype=dtype), dim=-1)


@torch.no_grad()
def maps_of(
    model: nn.Module, name: str, pixels: Tensor, targets: Tensor, layers: Any = None
) -> tuple[Tensor, Tensor]:
    """Return maps ``[B, P, patches]`` and the model's features ``[B, e]`` of one batch."""
    tower = find_tower(model)
    method = find_method(name, tower)
    tower = tower.at((pixels.shape[-2], pixels.shape[-1]))
    head = tower.score_head(method.score(tower, None))

    def folded(index: int) -> FoldedBlock:
        known = tower.known_block(index)
        assert known is not None
        return FoldedBlock.fold(known)

    chosen = method.layers(tower, layers)
    blocks, features = method.trace(tower, tower.embed(pixels), chosen, head)
    parts = ModelParts(folded, sum_rectified_product)
    return method.maps(tower, blocks, chosen, head, targets, parts), features
