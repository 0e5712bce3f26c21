"""TextSpan's direct effects: their definition, and that they sum to the served cosine."""

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import Tower, find_tower
from legrad_engine.methods import direct_effects
from legrad_engine.methods.direct_effects import (
    directions_of,
    effects_of_keys,
    sum_over_heads,
    trace_direct_effects,
)
from legrad_engine.methods.registry import find_method
from tests.support.architectures import CUSTOM, STANDARD, seeded_explainer, seeded_model
from tests.support.explicit_dense import ExplicitOpenClip, exact, explicit_textspan
from tests.support.plain_timm import MODELS, plain_model
from tests.support.shrunk_catalogue import shrunk_model
from tests.support.traced_maps import maps_of, noise, unit_vectors

VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {},
    "class token, quick GELU, layer scale": {"quick_gelu": True, "ls_init_value": 0.4},
    "average, norm before pooling": STANDARD["average, norm before pooling"],
    "average, norm after pooling": STANDARD["average, norm after pooling"],
    "patches wider than high": STANDARD["patches wider than high"],
    **CUSTOM,
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
REFUSED = {
    "swin_tiny_patch4_window7_224": "windows or stages",
    "fastvit_sa12": "windows or stages",
    "vit_base_patch16_siglip_224": "attentional pooler",
    "deit_tiny_distilled_patch16_224": "more than an average",
    "vit_base_patch16_rpn_224": "by themselves",
    "vit_relpos_small_patch16_rpn_224": "by themselves",
}


@cache
def exact_model(variant: str) -> ExplicitOpenClip:
    return ExplicitOpenClip(exact(seeded_model(**VARIANTS[variant])))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["64", "32"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_effects_equal_the_definition(variant: str, dtype: torch.dtype) -> None:
    model = seeded_model(dtype=dtype, **VARIANTS[variant])
    pixels, targets = noise(2, 3, 64, 48, dtype=dtype), unit_vectors(2, 3, 24, dtype=dtype)
    tower = find_tower(model)
    found, _ = maps_of(model, "textspan", pixels, targets)
    one, _ = maps_of(model, "textspan", pixels, targets, layers=[1])
    with torch.no_grad():
        layers = tuple(range(tower.depth))
        blocks, _ = trace_direct_effects(tower, tower.embed(pixels), layers)
        directions = directions_of(tower, blocks[0].pooled, targets)
        keys = torch.stack(
            [
                effects_of_keys(tower, effects, index, directions)
                for index, effects in enumerate(blocks)
            ],
            2,
        )
        mlps = torch.stack([each.mlp for each in blocks], 2)
        first = directions.vectors @ blocks[0].entering.unsqueeze(-1)
        for image in range(2):
            expected, changes, given = explicit_textspan(
                exact_model(variant), pixels[image].double(), targets[image].double()
            )
            limit = TOLERANCE[dtype]
            assert expected.abs().max() > 1e-3
            assert (keys[image] - expected).abs().max() <= limit
            assert (directions.vectors[image] @ mlps[image] - changes).abs().max() <= limit
            assert (first[image, :, 0] - given).abs().max() <= limit
            wanted = expected[..., 1:].sum(2)
            assert (found[image] - wanted.sum(1)).abs().max() <= limit
            assert (one[image] - wanted[:, 1]).abs().max() <= limit


ADDITIVE_PLAIN = sorted(set(MODELS) - set(REFUSED))


@pytest.mark.parametrize("name", ADDITIVE_PLAIN)
def test_effects_of_plain_timm_models_sum_to_the_cosine(name: str) -> None:
    assert_additive(plain_model(name))


@pytest.mark.parametrize("name", ["ViT-B-16", "EVA02-B-16", "ViT-B-16-quickgelu"])
def test_effects_of_open_clip_models_sum_to_the_cosine(name: str) -> None:
    assert_additive(shrunk_model(name))


def assert_additive(model: Any) -> None:
    tower = find_tower(model)
    pixels = noise(2, 3, *tower.image_size)
    targets = unit_vectors(2, 3, tower.embedding_size)
    with torch.no_grad():
        totals, features = total_effects(tower, pixels, targets)
    cosines = torch.einsum("be,bpe->bp", F.normalize(features, dim=-1), targets)
    torch.testing.assert_close(totals, cosines)


def total_effects(tower: Tower, pixels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    layers = tuple(range(tower.depth))
    blocks, features = trace_direct_effects(tower, tower.embed(pixels), layers)
    directions = directions_of(tower, blocks[0].pooled, targets)
    rest = blocks[0].entering + sum(each.mlp + each.constant for each in blocks)
    total = directions.constants + (directions.vectors @ rest.unsqueeze(-1)).squeeze(-1)
    for index, effects in enumerate(blocks):
        total = total + sum_over_heads(tower, effects, index, directions).sum(-1)
    return total, features


def test_heads_one_at_a_time_give_the_same_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("average, norm before pooling", "average, norm after pooling"):
        model = seeded_model(dtype=torch.float64, **STANDARD[name])
        pixels, targets = noise(1, 3, 64, 64), unit_vectors(1, 2, 24)
        together, _ = maps_of(model, "textspan", pixels, targets)
        with monkeypatch.context() as patched:
            patched.setattr(direct_effects, "_CHUNK_ELEMENTS", 1)
            alone, _ = maps_of(model, "textspan", pixels, targets)
        torch.testing.assert_close(alone, together)


def test_an_average_over_queries_is_said_and_a_second_pass_is_priced() -> None:
    by_variant = {
        name: find_tower(seeded_model(**vision))
        for name, vision in VARIANTS.items()
        if name in ("class token", "average, norm before pooling", "average, norm after pooling")
    }
    notes, works = {}, {}
    for name, tower in by_variant.items():
        method = find_method("textspan", tower)
        notes[name] = method.note(tower)
        works[name] = method.work(tower, (0, 1, 2), 1)
    assert notes["class token"] is None
    assert "second forward pass" in str(notes["average, norm before pooling"])
    assert "mean over their queries." in str(notes["average, norm after pooling"])
    assert works["average, norm before pooling"] == works["average, norm after pooling"] + 1
    # Every token is read, not only the class token.
    assert works["average, norm after pooling"] > works["class token"]


@pytest.mark.parametrize("name", REFUSED)
def test_models_whose_cosine_is_no_sum_are_refused_with_the_reason(name: str) -> None:
    tower = find_tower(plain_model(name))
    with pytest.raises(InvalidOptionError, match=REFUSED[name]):
        find_method("textspan", tower)


def test_a_batch_with_own_targets_equals_one_at_a_time() -> None:
    for vision in ({}, STANDARD["average, norm before pooling"]):
        explainer = seeded_explainer(**vision)
        generator = torch.Generator().manual_seed(0)
        pictures = [
            torch.randint(0, 256, (64, 96, 3), generator=generator, dtype=torch.uint8).numpy()
            for _ in range(3)
        ]
        targets = [unit_vectors(count, 24, seed=count).float() for count in (1, 2, 3)]
        together = explainer.explain(pictures, targets, method="textspan", fit="native")
        for picture, own, found in zip(pictures, targets, together, strict=True):
            (alone,) = explainer.explain(picture, own, method="textspan", fit="native")
            assert abs(found.maps - alone.maps).max() <= TOLERANCE[torch.float32]
            assert found.maps.shape == (len(own), 3, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_half_precision_is_near_float32(dtype: torch.dtype) -> None:
    pixels, targets = noise(2, 3, 64, 64).float(), unit_vectors(2, 2, 24).float()
    exactly, _ = maps_of(seeded_model(), "textspan", pixels, targets)
    found, _ = maps_of(seeded_model(dtype=dtype), "textspan", pixels.to(dtype), targets)
    assert found.dtype == torch.float32
    largest = exactly.abs().max()
    assert (found - exactly).abs().max() <= (0.2 if dtype == torch.bfloat16 else 0.03) * largest
