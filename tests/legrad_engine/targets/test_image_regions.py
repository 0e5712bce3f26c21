"""Regions of pictures as targets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from legrad_engine import Explainer
from legrad_engine.errors import InvalidTargetError
from legrad_engine.images.cropping import PixelBox
from legrad_engine.targets import ImageTarget, TextTarget
from legrad_engine.targets.image_regions import embed_targets, embeds_regions
from legrad_engine.targets.kinds import Target
from tests.support.pictures import encoded, picture
from tests.support.tiny_model import save_model

BOX = (20, 10, 70, 50)


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    reference = save_model(tmp_path_factory.mktemp("model"), "regions-model")
    return Explainer.load(*reference.split("@"), dtype="float64")


def vector_of(explainer: Explainer, target: ImageTarget) -> torch.Tensor:
    (resolved,) = explainer.resolver.resolve([target], 1)
    return resolved.vectors[0]


def test_a_region_is_the_picture_cut_out_alone(explainer: Explainer) -> None:
    other = picture(seed=5)
    region = vector_of(explainer, ImageTarget(encoded(other), box=BOX))
    alone = vector_of(explainer, ImageTarget(encoded(other.crop(BOX))))
    whole = vector_of(explainer, ImageTarget(encoded(other)))
    assert torch.allclose(region, alone, atol=1e-12)
    assert not torch.allclose(region, whole, atol=1e-3)


def test_a_box_counts_upright_pixels(explainer: Explainer, tmp_path: Path) -> None:
    other = picture(seed=5)
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    other.rotate(90, expand=True).save(turned, exif=exif)
    assert torch.allclose(
        vector_of(explainer, ImageTarget(turned, box=BOX)),
        vector_of(explainer, ImageTarget(other, box=BOX)),
        atol=1e-12,
    )


def test_regions_of_one_picture_are_targets_of_their_own(explainer: Explainer) -> None:
    data = encoded(picture(seed=5))
    boxes = (BOX, (0, 0, 40, 30), None)
    targets = [ImageTarget(data, b"same", box) for box in boxes]
    (resolved,) = explainer.resolver.resolve(targets, 1)
    for vector, box in zip(resolved.vectors, boxes, strict=True):
        assert torch.allclose(vector, vector_of(explainer, ImageTarget(data, box=box)), atol=1e-12)


def test_a_map_is_made_for_a_region(explainer: Explainer) -> None:
    targets: list[Target | str] = [ImageTarget(picture(seed=5), box=BOX), "a cat"]
    (found,) = explainer.explain(picture(), targets)
    assert found.maps.shape == (2, 4, 4)
    assert found.maps[0].max() > 0


@pytest.mark.parametrize("box", [(0, 0, 81, 60), (30, 30, 30, 50), (0, 0, 15, 15)])
def test_a_box_that_is_no_region_is_refused(explainer: Explainer, box: PixelBox) -> None:
    with pytest.raises(InvalidTargetError) as refused:
        vector_of(explainer, ImageTarget(picture(seed=5), box=box))
    assert refused.value.field == "box"


def test_words_are_refused_within_a_combination() -> None:
    from legrad_engine.targets import ContrastTarget, ResidualTarget

    asking = TextTarget("a cat", words=True)
    with pytest.raises(InvalidTargetError, match="contrast"):
        ContrastTarget(asking, TextTarget("a dog"))
    with pytest.raises(InvalidTargetError, match="residual"):
        ResidualTarget(TextTarget("a dog"), (asking,))


@pytest.fixture(scope="module")
def averaging() -> Explainer:
    return Explainer.load("starter", dtype="float64")


def test_a_model_that_averages_its_patches_embeds_the_patches_of_the_region(
    averaging: Explainer, explainer: Explainer
) -> None:
    assert embeds_regions(averaging.tower)
    assert not embeds_regions(explainer.tower)
    other = picture(140, 140, seed=5)
    # Patches of 14 pixels: rows 1 to 4 and columns 2 to 6.
    region = vector_of(averaging, ImageTarget(encoded(other), box=(28, 14, 98, 70)))
    with torch.no_grad():
        visual: Any = averaging.model.visual
        pixels = averaging.input_of([averaging.prepare(other)])
        tokens = visual.transformer(visual._embeds(pixels))
        patches = tokens[:, 1:].unflatten(1, (10, 10))[:, 1:5, 2:7].flatten(1, 2)
        pooled = visual._pool(torch.cat([tokens[:, :1], patches], 1))[0] @ visual.proj
    expected = torch.nn.functional.normalize(pooled[0], dim=0)
    assert torch.allclose(region, expected, atol=1e-10)


def test_the_whole_picture_as_a_region_is_the_picture(averaging: Explainer) -> None:
    other = picture(seed=5)
    region = vector_of(averaging, ImageTarget(other, box=(0, 0, 80, 60)))
    assert torch.allclose(region, vector_of(averaging, ImageTarget(other)), atol=1e-10)


@pytest.mark.parametrize("box", [(0, 0, 81, 60), (30, 30, 30, 50), (0, 0, 6, 60), (0, 0, 80, 4)])
def test_a_box_below_a_patch_of_the_fitted_picture_is_refused(
    averaging: Explainer, box: PixelBox
) -> None:
    with pytest.raises(InvalidTargetError) as refused:
        vector_of(averaging, ImageTarget(picture(seed=5), box=box))
    assert refused.value.field == "box"


def test_regions_and_pictures_are_embedded_in_their_order(averaging: Explainer) -> None:
    other = picture(seed=5)
    targets = [ImageTarget(other), ImageTarget(other, box=BOX), ImageTarget(picture(seed=6))]
    together = embed_targets(averaging, targets)
    for target, vector in zip(targets, together, strict=True):
        assert torch.allclose(vector, vector_of(averaging, target), atol=1e-10)
