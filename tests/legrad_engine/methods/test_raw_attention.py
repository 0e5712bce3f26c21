"""Raw attention equals the weights that the model's own code computes without fused attention."""

from typing import Any

import pytest
import torch

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import find_tower
from legrad_engine.methods.raw_attention import RawAttention
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

NAME = "raw-attention"


@pytest.mark.parametrize("queries", [("tok", slice(0, 1)), ("avg", slice(1, None))], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (96, 64)], ids=str)
def test_openclip_towers(queries: tuple[str, slice], size: tuple[int, int]) -> None:
    pool, rows = queries
    vision: dict[str, Any] = {"pool_type": pool, "image_size": list(size)}
    pixels = seeded_pixels(2, *size)
    tower = find_tower(seeded_model(**vision))
    found = maps_of(tower, NAME, pixels, seeded_targets(2, 3, tower.embedding_size), layers="all")
    visual: Any = seeded_model(**vision).double().visual
    for image in range(2):
        weights = torch.stack(openclip_weights(visual, pixels[image]))
        expected = weights[:, :, rows, 1:].mean((0, 1, 2)).view(found.shape[-2:])
        for target in range(3):
            assert largest_difference(found[image, target], expected) < 1e-5


@pytest.mark.parametrize("model", TIMM_QUERIES)
def test_timm_towers(model: str) -> None:
    rows, prefix = TIMM_QUERIES[model]
    tower = find_tower(plain_model(model))
    pixels = seeded_pixels(2, *tower.image_size).double()
    found = maps_of(tower, NAME, pixels, seeded_targets(2, 1, tower.embedding_size))
    for image in range(2):
        weights = timm_weights(plain_model(model), pixels[image])[-1]
        expected = weights[:, rows, prefix:].mean((0, 1)).view(found.shape[-2:])
        assert largest_difference(found[image, 0], expected) < 1e-10


def test_the_pooler_reads_the_output_of_any_block() -> None:
    tower = find_tower(plain_model("vit_base_patch16_siglip_224"))
    pixels = seeded_pixels(1, *tower.image_size).double()
    targets = seeded_targets(1, 1, tower.embedding_size)
    both = maps_of(tower, NAME, pixels, targets, layers="all")
    each = [maps_of(tower, NAME, pixels, targets, layers=[index]) for index in range(2)]
    assert largest_difference(both, (each[0] + each[1]) / 2) < 1e-12
    assert largest_difference(each[0], each[1]) > 1e-3


def test_every_head_has_a_map_and_their_mean_is_the_map() -> None:
    model = seeded_model()
    tower = find_tower(model)
    pixels = seeded_pixels(2, 64, 64)
    method = RawAttention()
    with torch.no_grad():
        head = tower.served_head()
        blocks, _ = method.trace(tower, tower.embed(pixels), (2,), head)
        heads = method.head_maps(tower, blocks, (2,))
    visual: Any = seeded_model().double().visual
    for image in range(2):
        expected = openclip_weights(visual, pixels[image])[-1][:, 0, 1:]
        assert largest_difference(heads[image], expected) < 1e-5
    mean = maps_of(tower, NAME, pixels, seeded_targets(2, 1, tower.embedding_size))
    assert largest_difference(heads.mean(1), mean[:, 0].flatten(1)) < 1e-6


def test_attention_within_windows_is_refused() -> None:
    tower = find_tower(plain_model("swin_tiny_patch4_window7_224"))
    with pytest.raises(InvalidOptionError, match=r"attend to the whole picture.*offers legrad"):
        find_method(NAME, tower)


def test_another_score_than_the_served_one_is_refused() -> None:
    tower = find_tower(seeded_model())
    assert find_method(NAME, tower).score(tower, None) == "cls"
    with pytest.raises(InvalidOptionError, match="use score='cls'"):
        find_method(NAME, tower).score(tower, "mean")


def test_the_answer_says_which_queries_take_the_place_of_a_class_token() -> None:
    notes = {
        name: find_method(NAME, find_tower(plain_model(name))).note(find_tower(plain_model(name)))
        for name in TIMM_QUERIES
    }
    assert notes["vit_tiny_patch16_224"] is None
    assert "pooler" in (notes["vit_base_patch16_siglip_224"] or "")
    assert "no class token" in (notes["vit_relpos_small_patch16_224"] or "")
