"""MaskCLIP, SCLIP, GEM and CLIP Surgery against their definitions with explicit attention."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import find_tower
from legrad_engine.methods.registry import find_method
from tests.support.architectures import CUSTOM, STANDARD, disturb, seeded_explainer, seeded_model
from tests.support.explicit_dense import (
    Explicit,
    ExplicitOpenClip,
    ExplicitTimm,
    exact,
    explicit_clip_surgery,
    explicit_gem,
    explicit_maskclip,
    explicit_sclip,
)
from tests.support.explicit_timm import explicit
from tests.support.plain_timm import NARROW, Plain, ReadsFeatures, plain_model
from tests.support.shrunk_catalogue import shrunk_model
from tests.support.traced_maps import maps_of, noise, unit_vectors

Oracle = Callable[[Explicit, Tensor, Tensor], Tensor]
ORACLES: dict[str, Oracle] = {
    "maskclip": explicit_maskclip,
    "sclip": explicit_sclip,
    "gem": explicit_gem,
    "clip-surgery": explicit_clip_surgery,
}
METHODS = pytest.mark.parametrize("method", ORACLES)
# Eight blocks: two of them before the second path of the methods that have one.
DEEP: dict[str, Any] = {"layers": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "class token": DEEP,
    "class token, quick GELU, layer scale": {**DEEP, "quick_gelu": True, "ls_init_value": 0.4},
    "average, norm before pooling": STANDARD["average, norm before pooling"],
    "average, norm after pooling": STANDARD["average, norm after pooling"],
    "patches wider than high": STANDARD["patches wider than high"],
    "all custom parts": CUSTOM["all of them, averaged, layer scale"],
    "scaled heads": CUSTOM["scaled heads"],
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@cache
def exact_model(variant: str) -> ExplicitOpenClip:
    return ExplicitOpenClip(exact(seeded_model(**VARIANTS[variant])))


@METHODS
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["64", "32"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_equal_the_definition(variant: str, dtype: torch.dtype, method: str) -> None:
    model = seeded_model(dtype=dtype, **VARIANTS[variant])
    pixels = noise(2, 3, 64, 96, dtype=dtype)
    targets = unit_vectors(2, 3, 24, dtype=dtype)
    found, features = maps_of(model, method, pixels, targets)
    explicit_model = exact_model(variant)
    expected = ORACLES[method](explicit_model, pixels.double(), targets.double())
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert expected.std() > 0.01
    assert (found - expected).abs().max() <= TOLERANCE[dtype]
    tokens = explicit_model.run(explicit_model.tokens(pixels.double()), 0, explicit_model.depth)
    served = explicit_model.features(tokens)
    assert (features - served).abs().max() <= TOLERANCE[dtype] * served.abs().max()


@METHODS
def test_one_target_alone_equals_the_definition(method: str) -> None:
    model = seeded_model(dtype=torch.float64, **DEEP)
    pixels, targets = noise(1, 3, 96, 64, seed=3), unit_vectors(1, 1, 24)
    found, _ = maps_of(model, method, pixels, targets)
    expected = ORACLES[method](exact_model("class token"), pixels, targets)
    assert found.abs().max() > 0.01
    torch.testing.assert_close(found, expected)


PLAIN = [
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "eva02_tiny_patch14_224",
    "vit_so150m2_patch16_reg1_gap_256",
    "vit_base_patch16_siglip_224",
]


@METHODS
@pytest.mark.parametrize("name", PLAIN)
def test_maps_of_plain_timm_models_equal_the_definition(name: str, method: str) -> None:
    model: Any = plain_model(name)
    assert_timm_equals(model, ReadsFeatures(explicit(model)), method)


@METHODS
def test_maps_behind_a_final_norm_that_is_no_layer_norm_equal_the_definition(method: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = timm.create_model("aimv2_large_patch14_224", **NARROW, img_size=56)
    disturb(trunk)
    model = Plain(trunk.double().eval())
    assert_timm_equals(model, ReadsFeatures(explicit(model)), method)


@METHODS
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "EVA02-B-16"])
def test_maps_of_timm_towers_in_open_clip_equal_the_definition(name: str, method: str) -> None:
    model = shrunk_model(name)
    assert_timm_equals(model, explicit(model), method)


def assert_timm_equals(model: Any, visual: Any, method: str) -> None:
    tower = find_tower(model)
    explicit_model = ExplicitTimm(visual)
    pixels = noise(2, 3, *tower.image_size)
    targets = unit_vectors(2, 2, tower.embedding_size)
    with torch.no_grad():
        found, features = maps_of(model, method, pixels, targets)
        expected = ORACLES[method](explicit_model, pixels, targets)
        torch.testing.assert_close(features, visual(pixels))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected)


@METHODS
def test_maps_in_front_of_an_attentional_pooler_equal_the_definition(method: str) -> None:
    model: Any = shrunk_model("coca_ViT-B-32")
    tower = find_tower(model)
    pixels, targets = noise(2, 3, *tower.image_size), unit_vectors(2, 2, tower.embedding_size)
    with torch.no_grad():
        found, features = maps_of(model, method, pixels, targets)
        expected = ORACLES[method](ExplicitOpenClip(model.visual), pixels, targets)
        torch.testing.assert_close(features, model.visual(pixels)[0])
    torch.testing.assert_close(found, expected)
    note = find_method(method, tower).note(tower)
    assert note is not None
    assert "value in the attentional pooler" in note


@METHODS
@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "fastvit_sa12"], ids=["windows", "stages"]
)
def test_towers_of_windows_or_stages_are_refused_with_the_reason(name: str, method: str) -> None:
    tower = find_tower(plain_model(name))
    with pytest.raises(InvalidOptionError, match="windows or stages") as caught:
        find_method(method, tower)
    assert "legrad" in str(caught.value)


@pytest.mark.parametrize("method", ["gem", "clip-surgery"])
def test_blocks_with_a_norm_behind_the_attention_have_no_second_path(method: str) -> None:
    tower = find_tower(plain_model("vit_base_patch16_rpn_224"))
    with pytest.raises(InvalidOptionError, match="nearest: maskclip and sclip"):
        find_method(method, tower)
    found, _ = maps_of(
        plain_model("vit_base_patch16_rpn_224"),
        "sclip",
        noise(1, 3, 64, 64),
        unit_vectors(1, 1, tower.embedding_size),
    )
    assert found.isfinite().all()


@pytest.mark.parametrize("method", ["gem", "clip-surgery"])
def test_the_second_path_begins_where_the_layers_begin(method: str) -> None:
    model = seeded_model(dtype=torch.float64, **DEEP)
    pixels, targets = noise(1, 3, 64, 64), unit_vectors(1, 1, 24)
    by_default, _ = maps_of(model, method, pixels, targets)
    six, _ = maps_of(model, method, pixels, targets, layers=6)
    two, _ = maps_of(model, method, pixels, targets, layers=[6, 7])
    torch.testing.assert_close(by_default, six)
    assert (two - six).abs().max() > 1e-3
    with pytest.raises(InvalidOptionError, match="number of last blocks"):
        maps_of(model, method, pixels, targets, layers=[2, 7])


@pytest.mark.parametrize("method", ["maskclip", "sclip"])
def test_other_blocks_than_the_last_are_refused(method: str) -> None:
    with pytest.raises(InvalidOptionError, match="last block alone"):
        maps_of(
            seeded_model(), method, noise(1, 3, 64, 64).float(), unit_vectors(1, 1, 24), layers=2
        )


def test_feature_surgery_removes_what_all_targets_have_in_common() -> None:
    model = seeded_model(dtype=torch.float64)
    pixels, targets = noise(1, 3, 64, 64), unit_vectors(1, 3, 24)
    found, _ = maps_of(model, "clip-surgery", pixels, targets)
    torch.testing.assert_close(found.sum(1), torch.zeros_like(found[:, 0]))
    twice, _ = maps_of(model, "clip-surgery", pixels, targets[:, [0, 0]])
    torch.testing.assert_close(twice, torch.zeros_like(twice))


@METHODS
def test_a_batch_with_own_targets_equals_one_at_a_time(method: str) -> None:
    explainer = seeded_explainer(**DEEP)
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.randint(0, 256, (64, 96, 3), generator=generator, dtype=torch.uint8).numpy()
        for _ in range(3)
    ]
    targets = [unit_vectors(count, 24, seed=count).float() for count in (1, 2, 3)]
    together = explainer.explain(pictures, targets, method=method, fit="native")
    for picture, own, found in zip(pictures, targets, together, strict=True):
        (alone,) = explainer.explain(picture, own, method=method, fit="native")
        assert found.maps.shape == (len(own), 3, 5)
        assert abs(found.maps - alone.maps).max() <= TOLERANCE[torch.float32]
        assert abs(found.similarities - alone.similarities).max() <= TOLERANCE[torch.float32]


@METHODS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_half_precision_is_near_float32(dtype: torch.dtype, method: str) -> None:
    pixels, targets = noise(2, 3, 64, 64).float(), unit_vectors(2, 2, 24).float()
    exactly, _ = maps_of(seeded_model(**DEEP), method, pixels, targets)
    found, _ = maps_of(seeded_model(dtype=dtype, **DEEP), method, pixels.to(dtype), targets)
    assert found.dtype == torch.float32
    assert (found - exactly).abs().max() <= (0.1 if dtype == torch.bfloat16 else 0.02)
