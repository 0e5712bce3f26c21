"""Fast resizing beside Pillow's: sizes, filters, bands and strips."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images import resizing
from legrad_engine.images.resizing import resize_exactly, resize_fast
from legrad_engine.models.preprocessing import Interpolation
from tests.support.pictures import picture


def differences(
    image: Image.Image, size: tuple[int, int], interpolation: Interpolation
) -> np.ndarray:
    fast, exact = (resize(image, size, interpolation) for resize in (resize_fast, resize_exactly))
    assert fast.size == exact.size == size
    assert fast.mode == exact.mode == "RGB"
    difference: np.ndarray = np.abs(np.asarray(fast).astype(int) - np.asarray(exact))
    return difference


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "box"])
@pytest.mark.parametrize(
    ("image_size", "size"),
    [
        *product([(256, 256), (301, 97)], [(224, 224), (96, 200)]),
        *product([(60, 40)], [(224, 224), (60, 224), (224, 40)]),
        ((1, 500), (224, 224)),
        ((500, 1), (1, 1)),
    ],
)
def test_nearly_every_value_is_that_of_pillow(
    image_size: tuple[int, int], size: tuple[int, int], interpolation: Interpolation
) -> None:
    found = differences(picture(*image_size), size, interpolation)
    assert found.max() <= 2
    assert (found > 0).mean() <= 0.02


@pytest.mark.parametrize("interpolation", ["nearest", "hamming"])
def test_filters_that_are_not_fast_are_exact(interpolation: Interpolation) -> None:
    assert not differences(picture(300, 200), (64, 64), interpolation).any()


def test_a_picture_of_the_wanted_size_stays_as_it_is() -> None:
    assert not differences(picture(120, 80), (120, 80), "bicubic").any()


def test_bands_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(300, 211)
    whole = resize_fast(image, (100, 90), "bicubic")
    monkeypatch.setattr(resizing, "_BAND_BYTES", 7 * 4 * 300)
    assert resize_fast(image, (100, 90), "bicubic").tobytes() == whole.tobytes()


def test_without_the_library_everything_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "vectorised", None)
    assert not differences(picture(300, 200), (64, 64), "bicubic").any()


def test_a_strip_of_extreme_length_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "_MOST_NARROWED_BYTES", 4 * 224 * 4000 - 1)
    assert not differences(picture(4, 4000), (224, 224), "bicubic").any()
