"""The engine's maps against LeGrad's definition, written out with explicit attention matrices."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from legrad_engine import Explainer, Geometry
from legrad_engine.families.base import KnownBlock
from legrad_engine.families.openclip_vit import OpenClipVisionTower
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.legrad import closed_form, rectified_product
from legrad_engine.legrad.closed_form import ClosedFormTrace
from legrad_engine.legrad.general import GeneralTrace
from tests.support.architectures import (
    CUSTOM,
    EMBEDDING_SIZE,
    STANDARD,
    seeded_explainer,
    seeded_model,
)
from tests.support.explicit_legrad import explicit_maps

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
Route = Literal["closed form", "general"]


class UnknownBlocksTower(OpenClipVisionTower):
    """A tower that knows no closed form, so that everything takes the general path."""

    def known_block(self, index: int) -> KnownBlock | None:
        return None


@cache
def explainer_of(variant: str, dtype: torch.dtype, route: Route = "closed form") -> Explainer:
    explainer = seeded_explainer(dtype=dtype, **(STANDARD | CUSTOM)[variant])
    if route == "general":
        explainer.tower = UnknownBlocksTower(explainer.model.visual)
    return explainer


@cache
def exact_visual(variant: str) -> torch.nn.Module:
    model: Any = seeded_model(**(STANDARD | CUSTOM)[variant])
    visual: torch.nn.Module = model.visual.double()
    return visual


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def unit_vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, EMBEDDING_SIZE, generator=generator), dim=-1)


def assert_exact(
    explainer: Explainer,
    variant: str,
    images: Sequence[Image.Image],
    targets: Sequence[Tensor],
    *,
    maybe_blank: bool = False,
    **options: Any,
) -> None:
    """Explains the images in one batch and compares each map with the definition.

    A map may be blank, all of its gradients being negative; a test that chose its inputs with care
    does not want that.
    """
    prepared = [explainer.prepare(image, fit="native") for image in images]
    trace = explainer.trace(prepared, **options)
    found = explainer.attribute(trace, targets)
    layers = explainer.resolve_layers(options.get("layers", 2))
    score = options.get("score", "mean")
    for image, vectors, explanation in zip(prepared, targets, found, strict=True):
        # float32 targets are what a float32 model is asked; their float64 copy is the same number.
        expected = explicit_maps(
            exact_visual(variant),
            explainer.input_of([image])[0],
            vectors.to(explainer.dtype),
            layers,
            score,
        ).numpy()
        assert explanation.maps.shape == expected.shape
        assert maybe_blank or expected.max() > 0
        difference = np.abs(explanation.maps - expected).max() / (expected.max() or 1.0)
        assert difference <= TOLERANCE[explainer.dtype]


@DTYPES
@pytest.mark.parametrize("route", ["closed form", "general"])
@pytest.mark.parametrize("variant", STANDARD)
def test_both_routes_equal_the_definition_on_every_standard_variant(
    variant: str, route: Route, dtype: torch.dtype
) -> None:
    explainer = explainer_of(variant, dtype, route)
    images = [photograph(90, 64, seed) for seed in range(2)]
    assert_exact(explainer, variant, images, [unit_vectors(2), unit_vectors(3, 1)], layers="all")


@DTYPES
@pytest.mark.parametrize("route", ["closed form", "general"])
@pytest.mark.parametrize("variant", [name for name in STANDARD if "average" not in name])
def test_the_class_token_score_equals_the_definition(
    variant: str, route: Route, dtype: torch.dtype
) -> None:
    explainer = explainer_of(variant, dtype, route)
    images = [photograph(64, 100, seed) for seed in range(2)]
    assert_exact(
        explainer, variant, images, [unit_vectors(1), unit_vectors(2, 1)], layers="all", score="cls"
    )


@DTYPES
@pytest.mark.parametrize("variant", CUSTOM)
def test_custom_blocks_take_the_general_path_and_equal_the_definition(
    variant: str, dtype: torch.dtype
) -> None:
    explainer = explainer_of(variant, dtype)
    trace = explainer.trace([photograph(64, 64)], layers="all")
    assert all(isinstance(block, GeneralTrace) for block in trace.blocks)
    images = [photograph(90, 64, seed) for seed in range(2)]
    assert_exact(explainer, variant, images, [unit_vectors(2), unit_vectors(3, 1)], layers="all")


@pytest.mark.parametrize("variant", STANDARD)
def test_standard_blocks_take_the_closed_form(variant: str) -> None:
    trace = explainer_of(variant, torch.float32).trace([photograph(64, 64)], layers="all")
    assert all(isinstance(block, ClosedFormTrace) for block in trace.blocks)


@DTYPES
@pytest.mark.parametrize(
    "layers", [1, 2, 3, "all", [0], [1], [-1], [0, 2], [-1, -3], [2, -1]], ids=str
)
@pytest.mark.parametrize("score", ["mean", "cls"])
def test_every_choice_of_layers_equals_the_definition(
    layers: Any, score: str, dtype: torch.dtype
) -> None:
    variant = "class token"
    assert_exact(
        explainer_of(variant, dtype),
        variant,
        [photograph(64, 64)],
        [unit_vectors(2)],
        layers=layers,
        score=score,
    )


@pytest.mark.parametrize("size", [(12, 300), (300, 12), (30, 30)], ids=str)
def test_a_grid_of_one_column_or_row_equals_the_definition(size: tuple[int, int]) -> None:
    variant = "class token"
    assert_exact(
        explainer_of(variant, torch.float64), variant, [photograph(*size)], [unit_vectors(2)]
    )


@settings(max_examples=20)
@example(variant="class token, no ln_pre", width=41, height=8, counts=[1], layers=[1], seed=1)
@given(
    variant=st.sampled_from(sorted(STANDARD | CUSTOM)),
    width=st.integers(8, 400),
    height=st.integers(8, 400),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    layers=st.lists(st.integers(-3, 2), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_grid_batch_and_layers_equal_the_definition(
    variant: str, width: int, height: int, counts: list[int], layers: list[int], seed: int
) -> None:
    images = [photograph(width, height, seed + index) for index in range(len(counts))]
    targets = [unit_vectors(count, seed + index) for index, count in enumerate(counts)]
    explainer = explainer_of(variant, torch.float64)
    assert_exact(explainer, variant, images, targets, maybe_blank=True, layers=layers)


@pytest.mark.parametrize(
    ("variant", "score"),
    [("class token", "mean"), ("class token", "cls"), ("average, norm before pooling", "mean")],
)
@pytest.mark.parametrize(("tile", "chunk"), [(1, 1), (700, 3000), (3000, 10_000), (20_000, 50_000)])
def test_splitting_the_work_into_small_parts_changes_nothing(
    variant: str, score: str, tile: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real limits are met only by sizes that take long: small ones turn every loop over.
    monkeypatch.setitem(rectified_product._TILE_ELEMENTS, "cpu", tile)
    monkeypatch.setitem(closed_form._CHUNK_ELEMENTS, "cpu", chunk)
    images = [photograph(90, 64, seed) for seed in range(4)]
    targets = [unit_vectors(5, seed) for seed in range(4)]
    assert_exact(explainer_of(variant, torch.float64), variant, images, targets, score=score)


@pytest.mark.parametrize("route", ["closed form", "general"])
@pytest.mark.parametrize("layers", [1, [0], "all"], ids=str)
@pytest.mark.parametrize("variant", sorted(STANDARD | CUSTOM))
def test_similarities_are_the_cosines_that_the_model_serves(
    variant: str, layers: Any, route: Route
) -> None:
    explainer = explainer_of(variant, torch.float64, route)
    size = tuple(explainer.model.visual.image_size[::-1])  # type: ignore[index, union-attr]
    prompts = ["a cat", "two dogs on a sofa", "red"]
    # fit="native" keeps this picture's own size, so encode_image can take the same pixels.
    prepared = explainer.prepare(photograph(*size), None, "native")
    if prepared.geometry.input_size != size:
        prepared = PreparedImage(
            torch.randn(3, size[1], size[0], generator=torch.Generator().manual_seed(0)).numpy(),
            Geometry(size, size, (0, 0, *size), explainer.tower.patch_size),
        )
    (explanation,) = explainer.attribute(explainer.trace([prepared], layers=layers), prompts)
    model: Any = explainer.model
    encoder: Any = explainer.text
    with torch.no_grad():
        image = model.encode_image(explainer.input_of([prepared]), normalize=True)
        text = model.encode_text(encoder._tokenizer(prompts), normalize=True)
    expected = (image @ text.T)[0]
    np.testing.assert_allclose(explanation.similarities, expected, atol=1e-6)
    weighed = (expected * model.logit_scale.exp()).softmax(-1)
    np.testing.assert_allclose(explanation.probabilities, weighed, atol=1e-5)
