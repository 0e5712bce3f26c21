"""timm's own image models, without any text tower: their features are what is explained."""

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families import find_tower
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.rectified_product import sum_rectified_product
from legrad_engine.legrad.route import attribute_block, trace_blocks
from tests.support.architectures import disturb
from tests.support.explicit_timm import explained_blocks, explicit, explicit_timm_maps

NARROW = {"depth": 2, "embed_dim": 64, "num_heads": 4}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**NARROW, "img_size": 64},
    "vit_base_patch16_clip_quickgelu_224": {**NARROW, "img_size": 64},
    "deit_tiny_distilled_patch16_224": {**NARROW, "img_size": 64},
    "deit3_small_patch16_224": {**NARROW, "img_size": 64},
    "vit_small_patch14_dinov2": {**NARROW, "img_size": 56},
    "vit_small_patch14_reg4_dinov2": {**NARROW, "img_size": 56},
    "vit_giant_patch14_reg4_dinov2": {**NARROW, "embed_dim": 96, "img_size": 56},
    "vit_small_patch16_dinov3": {**NARROW, "img_size": 64},
    "vit_medium_patch16_rope_reg1_gap_256": {**NARROW, "img_size": 64},
    "vit_so150m2_patch16_reg1_gap_256": {**NARROW, "img_size": 64},
    "vit_base_patch16_siglip_224": {**NARROW, "img_size": 64, "num_classes": 5},
    "vit_relpos_small_patch16_224": {**NARROW, "img_size": 64},
    "vit_relpos_small_patch16_rpn_224": {**NARROW, "img_size": 64},
    "vit_small_patch16_36x1_224": {**NARROW, "img_size": 64},
    "vit_base_patch16_rpn_224": {**NARROW, "img_size": 64},
    "eva02_tiny_patch14_224": {**NARROW, "img_size": 56},
    "beit_base_patch16_224": {**NARROW, "img_size": 64},
    "beitv2_base_patch16_224": {
        **NARROW,
        "img_size": 64,
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": True,
        "use_abs_pos_emb": True,
        "global_pool": "token",
    },
    "swin_tiny_patch4_window7_224": {
        "img_size": 128,
        "window_size": 2,
        "depths": (1, 1, 1, 2),
        "embed_dim": 16,
        "num_heads": (1, 2, 4, 8),
    },
    "fastvit_sa12": {"layers": (1, 1, 1, 2), "embed_dims": (32, 32, 64, 64)},
}


class _Plain(nn.Module):
    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


class _ReadsFeatures(nn.Module):
    """A timm model in the place of open_clip's adapter, giving what its classifier reads."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Identity()
        if "distilled" in type(trunk).__name__.lower():
            # Two tokens side by side; their mean, where only that is given, for both.
            trunk.forward_head = lambda x: torch.cat([x[:, 0], x[:, min(1, x.shape[1] - 1)]], 1)
        elif hasattr(trunk.head, "fc"):
            trunk.reset_classifier(0)
        else:
            trunk.head = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.trunk(pixels)  # type: ignore[no-any-return]


@cache
def plain_model(name: str) -> _Plain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **MODELS[name])
    disturb(model)
    return _Plain(model.requires_grad_(False).double().eval())


@pytest.mark.parametrize("name", MODELS)
def test_plain_image_models_equal_the_definition(name: str) -> None:
    model = plain_model(name)
    tower = find_tower(model)
    size = MODELS[name].get("img_size", 256)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    targets = torch.randn(2, 3, tower.embedding_size, generator=generator, dtype=torch.float64)
    targets = F.normalize(targets, dim=-1)
    reads = _ReadsFeatures(explicit(model))
    layers = tuple(range(tower.depth))
    assert tower.depth == len(explained_blocks(reads.trunk))
    sized = tower.at((size, size))
    folded = partial(_folded, tower)
    for score in tower.scores:
        head = tower.score_head(score)
        with torch.no_grad():
            blocks, features = trace_blocks(sized, sized.embed(pixels), layers, head)
            maps = sum(
                attribute_block(sized, index, block, head, targets, folded, sum_rectified_product)
                for index, block in zip(layers, blocks, strict=True)
            )
        assert isinstance(maps, Tensor)
        torch.testing.assert_close(features, reads(pixels))
        for image in range(2):
            expected = explicit_timm_maps(reads, pixels[image], targets[image], layers, score)
            found = maps[image].numpy()
            wanted = expected.flatten(1).numpy()
            assert wanted.max() > 0
            assert np.abs(found - wanted).max() <= 1e-9 * wanted.max()


def _folded(tower: Any, index: int) -> FoldedBlock:
    known = tower.known_block(index)
    assert known is not None
    return FoldedBlock.fold(known)


def test_the_classifier_reads_the_features_that_are_explained() -> None:
    model = plain_model("deit_tiny_distilled_patch16_224")
    trunk: Any = model.visual
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        tower = find_tower(model)
        _, features = trace_blocks(tower, tower.embed(pixels), (0,), tower.score_head("cls"))
        weight = torch.cat([trunk.head.weight, trunk.head_dist.weight], 1) / 2
        bias = (trunk.head.bias + trunk.head_dist.bias) / 2
        torch.testing.assert_close(features @ weight.T + bias, trunk(pixels))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "fastvit_t8", "mixer_s32_224"])
def test_plain_models_without_such_attention_are_refused(name: str) -> None:
    with torch.device("meta"):
        model = _Plain(timm.create_model(name))
    with pytest.raises(UnsupportedModelError):
        find_tower(model)
