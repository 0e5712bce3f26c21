"""Every architecture that open_clip knows: explained exactly, or refused with a reason."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from legrad_engine import Explainer, Geometry
from legrad_engine.errors import InvalidOptionError, UnsupportedModelError
from legrad_engine.families import find_tower, refusal
from legrad_engine.families.registry import families, refusals
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.models.foreign import FOREIGN
from legrad_engine.models.hugging_face.registry import class_names
from tests.support.architectures import seeded_explainer, tokenizer
from tests.support.explicit_legrad import explicit_maps
from tests.support.explicit_timm import explicit, explicit_coca_maps, explicit_timm_maps
from tests.support.paths import DOCS
from tests.support.shrunk_catalogue import WIDTH, shrunk_model
from tools.models_page import coverage, row, timm_row

NAMES = open_clip.list_models()
REFUSED = [name for name in NAMES if refusal(open_clip.get_model_config(name))]
EXPLAINED = [name for name in NAMES if name not in REFUSED]


PAGE = DOCS / "models.md"

# One for every way in which a tower is built, pools or attends.
FAMILIES = [
    "ViT-B-16",
    "ViT-L-14-CLIPA",
    "coca_ViT-B-32",
    "ViT-B-16-SigLIP",
    "PE-Core-B-16",
    "EVA01-g-14",
    "EVA02-B-16",
    "MobileCLIP2-B",
    "vit_medium_patch16_gap_256",
    "vit_relpos_medium_patch16_cls_224",
    "ViTamin-S",
    "swin_base_patch4_window7_224",
    "MobileCLIP2-S0",
]

RESIZABLE = [name for name in FAMILIES if not name.startswith(("swin", "vit_relpos"))]


@cache
def explainer_of(name: str, dtype: torch.dtype = torch.float64) -> Explainer:
    return Explainer(shrunk_model(name, dtype=dtype), tokenizer(), name=name)


def prepared(explainer: Explainer, count: int, height: int, width: int) -> list[PreparedImage]:
    geometry = Geometry(
        (width, height), (width, height), (0, 0, width, height), explainer.tower.patch_size
    )
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    pixels = F.interpolate(coarse, size=(height, width), mode="bicubic")
    return [PreparedImage(each.numpy(), geometry) for each in pixels]


def definition(model: Any, image: PreparedImage, targets: Any, layers: Any, score: str) -> Any:
    visual = explicit(model)
    pixels = torch.from_numpy(image.pixels)
    if not hasattr(visual, "trunk"):
        if score == "pooler":
            return explicit_coca_maps(visual, pixels, targets, layers)
        return explicit_maps(visual, pixels, targets, layers, score)  # type: ignore[arg-type]
    size = tuple(pixels.shape[-2:])
    if hasattr(visual.trunk, "set_input_size") and size != tuple(visual.image_size):
        visual.trunk.set_input_size(size)
    return explicit_timm_maps(visual, pixels, targets, layers, score)


def unit_vectors(count: int, seed: int, size: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return F.normalize(vectors, dim=-1)


def assert_exact(explainer: Explainer, height: int, width: int, *, tolerance: float = 1e-9) -> None:
    images = prepared(explainer, 2, height, width)
    size = explainer.tower.embedding_size
    targets = [unit_vectors(2, 1, size), unit_vectors(3, 2, size)]
    for score in explainer.tower.scores:
        trace = explainer.trace(images, layers="all", score=score)
        found = explainer.attribute(trace, targets)
        assert trace.nbytes == sum(part.nbytes for part in trace.split())
        for image, vectors, explanation in zip(images, targets, found, strict=True):
            expected = definition(explainer.model, image, vectors, trace.layers, score).numpy()
            assert expected.max() > 0
            assert explanation.maps.shape == expected.shape
            assert np.abs(explanation.maps - expected).max() <= tolerance * expected.max()


def test_the_catalogue_is_complete() -> None:
    assert len(NAMES) - ("starter" in NAMES) >= 144
    assert len(EXPLAINED) - ("starter" in NAMES) >= 123


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_explained_architecture_equals_the_definition(name: str) -> None:
    explainer = explainer_of(name)
    height, width = explainer.tower.image_size
    assert_exact(explainer, height, width)


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_similarity_is_the_one_that_the_architecture_serves(name: str) -> None:
    explainer = explainer_of(name)
    height, width = explainer.tower.image_size
    images = prepared(explainer, 2, height, width)
    targets = unit_vectors(2, 5, explainer.tower.embedding_size)
    found = explainer.attribute(explainer.trace(images, layers=1), targets)
    model: Any = explainer.model
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(image.pixels) for image in images]).double()
        served = model.visual(pixels)
        # CoCa's towers give their tokens as well.
        served = served[0] if isinstance(served, tuple) else served
        served = F.normalize(served, dim=-1) @ targets.T
    np.testing.assert_allclose([each.similarities for each in found], served, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_equals_the_definition_at_full_width(name: str) -> None:
    explainer = Explainer(shrunk_model(name, full_width=True), tokenizer(), name=name)
    height, width = explainer.tower.image_size
    (image,) = prepared(explainer, 1, height, width)
    vectors = unit_vectors(1, 1, explainer.tower.embedding_size)
    trace = explainer.trace([image], layers=1)
    (found,) = explainer.attribute(trace, vectors)
    expected = definition(explainer.model, image, vectors, trace.layers, trace.score).numpy()
    assert expected.max() > 0
    assert np.abs(found.maps - expected).max() <= 1e-9 * expected.max()


@pytest.mark.parametrize("cells", [(3, 5), (6, 4)], ids=str)
@pytest.mark.parametrize("name", RESIZABLE)
def test_every_family_equals_the_definition_on_other_grids(
    name: str, cells: tuple[int, int]
) -> None:
    explainer = explainer_of(name)
    height, width = (
        count * side for count, side in zip(cells, explainer.tower.patch_size, strict=True)
    )
    weights = {key: value.clone() for key, value in explainer.model.state_dict().items()}
    # timm resamples positions in float32 on its way to another size.
    assert_exact(explainer, height, width, tolerance=1e-5)
    for key, value in explainer.model.state_dict().items():
        assert torch.equal(value, weights[key])
    assert_exact(explainer, *explainer.tower.image_size)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 0.012), (torch.bfloat16, 0.03)],
    ids=str,
)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_its_maps_in_lower_precision(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    exact = explainer_of(name)
    images = prepared(exact, 2, *exact.tower.image_size)
    targets = unit_vectors(3, 1, exact.tower.embedding_size)
    low = explainer_of(name, dtype)
    for score in exact.tower.scores:
        wanted = exact.attribute(exact.trace(images, layers="all", score=score), targets)
        found = low.attribute(low.trace(images, layers="all", score=score), targets)
        for each, other in zip(wanted, found, strict=True):
            assert np.abs(each.maps - other.maps).max() <= tolerance * each.maps.max()


@pytest.mark.parametrize("name", RESIZABLE)
def test_sizes_and_threads_do_not_disturb_each_other(name: str) -> None:
    explainer = explainer_of(name)
    height, width = explainer.tower.image_size
    patch_height, patch_width = explainer.tower.patch_size
    sizes = [(height, width), (height + patch_height, width), (height, width + patch_width)]
    targets = unit_vectors(2, 1, explainer.tower.embedding_size)

    def maps(size: tuple[int, int]) -> Any:
        trace = explainer.trace(prepared(explainer, 1, *size), layers="all")
        return explainer.attribute(trace, targets)[0].maps

    alone = [maps(size) for size in sizes]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(maps, sizes * 3))
    for position, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[position % 3])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in RESIZABLE])
def test_a_model_with_relative_positions_refuses_other_sizes_before_it_computes(name: str) -> None:
    explainer = explainer_of(name)
    width, height = explainer.own_size
    for size, fit in ((width + 32, "squash"), (None, "native")):
        with pytest.raises(InvalidOptionError, match=f"{width} x {height}") as refused:
            explainer.plan((300, 200), size, fit)  # type: ignore[arg-type]
        assert refused.value.field == "size"


def test_a_size_that_is_not_whole_patches_is_a_model_s_own_alone() -> None:
    explainer = explainer_of("ViT-SO400M-14-SigLIP-384")
    picture = Image.new("RGB", (90, 50), "red")
    for size in (None, 62):
        (found,) = explainer.explain([picture], unit_vectors(1, 1), size=size)
        assert found.maps.shape == (1, 4, 4)
    with pytest.raises(InvalidOptionError, match="multiple of the model's patch"):
        explainer.plan((90, 50), 61)


@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
@pytest.mark.parametrize("image_size", [[96, 64], [64, 128]], ids=str)
def test_a_model_that_is_not_square_is_asked_at_its_own_shape(
    image_size: list[int], fit: Any
) -> None:
    explainer = seeded_explainer(image_size=image_size)
    width, height = explainer.own_size
    geometry = explainer.plan((2 * width, 2 * height), fit=fit)
    assert [geometry.input_size[1], geometry.input_size[0]] == image_size
    assert geometry.grid == explainer.tower.grid
    assert explainer.plan((500, 10), fit="pad").grid == explainer.tower.grid


@pytest.mark.parametrize("name", REFUSED)
def test_every_other_architecture_is_refused_with_its_reason(name: str) -> None:
    reason = refusal(open_clip.get_model_config(name))
    assert reason is not None
    assert "attention" in reason
    with torch.device("meta"):
        config = open_clip.get_model_config(name)
        model = torch.nn.Module()
        model.visual = open_clip.model._build_vision_tower(
            config["embed_dim"], config["vision_cfg"]
        )
    with pytest.raises(UnsupportedModelError, match="attention"):
        find_tower(model)


def test_the_models_page_has_a_line_for_every_architecture() -> None:
    lines = PAGE.read_text().partition("## Plain image models")[0].splitlines()
    listed = {line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")}
    assert listed - {"Model", "---"} == set(NAMES) - {"starter"}
    for name in REFUSED:
        reason = refusal(open_clip.get_model_config(name))
        assert reason is not None
        assert row(name, reason) in lines


@pytest.mark.parametrize("name", FAMILIES)
def test_the_models_page_tells_what_the_engine_does(name: str) -> None:
    assert row(name, coverage(name)) in PAGE.read_text().splitlines()


def test_the_models_page_lists_every_refusal_with_the_nearest_model() -> None:
    text = PAGE.read_text()
    for refused in refusals():
        if refused.timm_modules:
            assert timm_row(refused) in text.splitlines()
    for foreign in FOREIGN:
        assert f"| {foreign.title} | {foreign.source} |" in text
        assert foreign.nearest in text


def test_the_models_page_lists_plain_models_and_classes_of_transformers() -> None:
    words = " ".join(PAGE.read_text().split())
    for family in families():
        assert family.plain_models in words
    for name in class_names():
        assert name in words
