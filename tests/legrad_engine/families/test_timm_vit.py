"""timm's own image models, without any text tower: their features are what is explained."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families import find_tower
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.rectified_product import sum_rectified_product
from legrad_engine.legrad.route import attribute_block, trace_blocks
from tests.support.explicit_timm import explained_blocks, explicit, explicit_timm_maps
from tests.support.plain_timm import MODELS, Plain, ReadsFeatures, plain_model


@pytest.mark.parametrize("name", MODELS)
def test_plain_image_models_equal_the_definition(name: str) -> None:
    model = plain_model(name)
    tower = find_tower(model)
    size = MODELS[name].get("img_size", 256)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    targets = torch.randn(2, 3, tower.embedding_size, generator=generator, dtype=torch.float64)
    targets = F.normalize(targets, dim=-1)
    reads = ReadsFeatures(explicit(model))
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
        model = Plain(timm.create_model(name))
    with pytest.raises(UnsupportedModelError):
        find_tower(model)
