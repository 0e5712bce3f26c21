"""VisionTransformers that resample their positions for every input."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.families import find_tower
from legrad_engine.families.any_size_vit import (
    AnySizeVisionTransformer,
    ClassAndPatchesVisionTransformer,
)
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.rectified_product import sum_rectified_product
from legrad_engine.legrad.route import attribute_block, trace_blocks
from tests.support.architectures import disturb
from tests.support.explicit_timm import explicit, explicit_timm_maps

SETTINGS: dict[str, Any] = {
    "img_size": (32, 32),
    "input_size": (48, 24),
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
}
VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "DINOv2": (AnySizeVisionTransformer, {"mode": "bicubic", "antialias": False}),
    "DINOv2 with registers": (
        AnySizeVisionTransformer,
        {"mode": "bicubic", "antialias": True, "reg_tokens": 3},
    ),
    "SigLIP 2": (
        AnySizeVisionTransformer,
        {"mode": "bilinear", "antialias": True, "class_token": False, "global_pool": "map"},
    ),
    "DINOv2's classifier": (
        ClassAndPatchesVisionTransformer,
        {"mode": "bicubic", "antialias": False, "reg_tokens": 2, "num_classes": 4},
    ),
}


class _Model(nn.Module):
    def __init__(self, variant: str) -> None:
        super().__init__()
        kind, options = VARIANTS[variant]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.visual = kind(**{"num_classes": 0, **SETTINGS, **options})
        disturb(self.visual)


class _ReadsFeatures(nn.Module):
    """The trunk without its classifier, in the form that the explicit maps take."""

    def __init__(self, trunk: Any, *, repeats: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Identity()
        trunk.head = nn.Identity()
        if repeats:
            pool = trunk.pool
            # The mean of all tokens stands for the class token and for the patches.
            trunk.pool = lambda x: pool(x) if x.shape[1] > 1 else torch.cat([x[:, 0]] * 2, -1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.trunk(pixels)  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (64, 8)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_equal_the_definition_at_every_size(variant: str, size: tuple[int, int]) -> None:
    model = _Model(variant).requires_grad_(False).double().eval()
    tower = find_tower(model)
    assert tower.image_size == (48, 24)
    assert tower.at(size) is tower
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    targets = torch.randn(2, 3, tower.embedding_size, generator=generator, dtype=torch.float64)
    targets = F.normalize(targets, dim=-1)
    layers = tuple(range(tower.depth))

    def folded(index: int) -> FoldedBlock:
        known = tower.known_block(index)
        assert known is not None
        return FoldedBlock.fold(known)

    for score in tower.scores:
        reads = _ReadsFeatures(explicit(model), repeats="classifier" in variant)
        head = tower.score_head(score)
        with torch.no_grad():
            blocks, features = trace_blocks(tower, tower.embed(pixels), layers, head)
            maps = sum(
                attribute_block(tower, index, block, head, targets, folded, sum_rectified_product)
                for index, block in zip(layers, blocks, strict=True)
            )
            assert isinstance(maps, Tensor)
            torch.testing.assert_close(features, reads(pixels))
        for image in range(2):
            expected = explicit_timm_maps(reads, pixels[image], targets[image], layers, score)
            wanted = expected.flatten(1).numpy()
            assert wanted.max() > 0
            assert np.abs(maps[image].numpy() - wanted).max() <= 1e-9 * wanted.max()


def test_half_precision_keeps_its_dtype_at_other_sizes() -> None:
    model: Any = _Model("DINOv2").to(torch.bfloat16).eval()
    with torch.no_grad():
        features = model.visual(torch.ones(1, 3, 48, 24, dtype=torch.bfloat16))
    assert features.dtype == torch.bfloat16
