"""Fitting, collation and normalisation of pictures, against torchvision's transforms."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from legrad_engine.images.decoding import decode
from legrad_engine.images.geometry import Fit, Geometry, plan
from legrad_engine.images.inputs import InputRules, PreparedImage
from legrad_engine.inputs import collate, normalize
from legrad_engine.models.preprocessing import Interpolation, Preprocessing
from tests.support.paths import EXAMPLES

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OWN = Preprocessing(mean=MEAN, std=STD, source="a test")


def prepared_pixels(
    image: Image.Image, geometry: Geometry, preprocessing: Preprocessing, fit: Fit
) -> NDArray[np.float32]:
    """Fit and normalise a picture as the explainer does."""
    rules = InputRules(geometry.input_size, geometry.patch_size, fit, preprocessing.interpolation)
    prepared = [rules.prepare(image)]
    assert prepared[0].geometry == geometry
    (pixels,) = normalize(collate(prepared, preprocessing), prepared, preprocessing)
    found: NDArray[np.float32] = pixels.numpy()
    return found


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_padding_of_a_model_without_a_mean_is_not_black() -> None:
    own = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), source="a test")
    geometry = plan((64, 32), size=64, patch_size=(16, 16), fit="pad")
    pixels = prepared_pixels(noise(64, 32), geometry, own, "pad")
    np.testing.assert_allclose(pixels[:, 0, 0], (0.485, 0.456, 0.406), rtol=1e-6)


@pytest.mark.parametrize("name", ["cat.jpg", "astronaut.jpg", "galaxies.gif"])
@pytest.mark.parametrize("size", [224, 448])
def test_squash_equals_torchvision_bit_for_bit(name: str, size: int) -> None:
    image = decode(EXAMPLES / name)
    reference = Compose(
        [Resize((size, size), InterpolationMode.BICUBIC), ToTensor(), Normalize(MEAN, STD)]
    )
    geometry = plan(image.size, size=size, patch_size=(16, 16), fit="squash")
    pixels = prepared_pixels(image, geometry, OWN, "squash")
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, reference(image).numpy())


@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [
        ("nearest", InterpolationMode.NEAREST),
        ("box", InterpolationMode.BOX),
        ("bilinear", InterpolationMode.BILINEAR),
        ("hamming", InterpolationMode.HAMMING),
        ("lanczos", InterpolationMode.LANCZOS),
    ],
)
def test_a_model_s_own_interpolation_equals_torchvision_s(
    interpolation: Interpolation, mode: InterpolationMode
) -> None:
    image = decode(EXAMPLES / "cat.jpg")
    reference = Compose([Resize((96, 96), mode), ToTensor(), Normalize(MEAN, STD)])
    geometry = plan(image.size, size=96, patch_size=(16, 16), fit="squash")
    pixels = prepared_pixels(image, geometry, replace(OWN, interpolation=interpolation), "squash")
    assert np.array_equal(pixels, reference(image).numpy())
    assert not np.array_equal(pixels, prepared_pixels(image, geometry, OWN, "squash"))


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 128, 3)])
def test_padding_has_the_model_s_own_fill_colour(color: tuple[int, int, int]) -> None:
    image = decode(EXAMPLES / "coffee.webp")
    geometry = plan(image.size, size=224, patch_size=(16, 16), fit="pad")
    left, top, right, bottom = geometry.content_box
    canvas = Image.new("RGB", (224, 224), color)
    canvas.paste(image.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
    expected = Compose([ToTensor(), Normalize(MEAN, STD)])(canvas)
    pixels = prepared_pixels(image, geometry, replace(OWN, fill_color=color), "pad")
    np.testing.assert_allclose(pixels, expected.numpy(), rtol=1e-6)


def test_padding_is_zero_and_the_picture_is_whole() -> None:
    image = decode(EXAMPLES / "coffee.webp")
    geometry = plan(image.size, size=224, patch_size=(16, 16), fit="pad")
    left, top, right, bottom = geometry.content_box
    pixels = prepared_pixels(image, geometry, OWN, "pad")
    assert pixels.shape == (3, 224, 224)
    assert not pixels[:, :top].any()
    assert not pixels[:, bottom:].any()
    content = Compose(
        [
            Resize((bottom - top, right - left), InterpolationMode.BICUBIC),
            ToTensor(),
            Normalize(MEAN, STD),
        ]
    )
    assert np.array_equal(pixels[:, top:bottom, left:right], content(image).numpy())


@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
@pytest.mark.parametrize("image_size", [(1, 1), (3000, 2), (2, 3000), (451, 300)])
def test_pixels_have_the_planned_size(fit: Fit, image_size: tuple[int, int]) -> None:
    geometry = plan(image_size, size=112, patch_size=(14, 14), fit=fit)
    pixels = prepared_pixels(noise(*image_size), geometry, OWN, fit)
    assert pixels.shape == (3, geometry.input_size[1], geometry.input_size[0])
    assert np.isfinite(pixels).all()


def test_pictures_of_one_input_size_are_normalised_together() -> None:
    rules = InputRules(96, (16, 16), "pad", "bicubic")
    prepared = [rules.prepare(noise(*size)) for size in [(90, 40), (40, 90), (64, 64)]]
    batch = normalize(collate(prepared, OWN), prepared, OWN)
    for each, found in zip(prepared, batch, strict=True):
        (alone,) = normalize(collate([each], OWN), [each], OWN)
        assert np.array_equal(found, alone)


def test_pixels_that_the_caller_normalised_stay_as_they_are() -> None:
    values = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    prepared = [PreparedImage(values, plan((50, 40), size=32, patch_size=(16, 16), fit="squash"))]
    assert np.array_equal(normalize(collate(prepared, OWN), prepared, OWN)[0], values)
