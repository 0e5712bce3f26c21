"""JPEG files that are decoded smaller: the model's input, regions of it, and overlays."""

from functools import lru_cache
from itertools import product

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images.cropping import PixelBox
from legrad_engine.images.decoding import decode
from legrad_engine.images.fits import Fit
from legrad_engine.images.inputs import InputRules
from service.pictures.decoding import DecodedPicture, decode_picture
from service.settings.values import DecodingName, PictureRules
from tests.support.paths import EXAMPLES
from tests.support.pictures import encoded

# Decoded at a half and at a quarter: one pixel more than a multiple, and one less.
SIZES = [(2049, 1401), (2055, 1391), (4097, 2733)]
INPUT = InputRules(112, (16, 16), "squash", "bicubic")


@lru_cache
def photograph(size: tuple[int, int], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    whole = decode(EXAMPLES / "cat.jpg").resize(size, Image.Resampling.LANCZOS)
    return encoded(whole, "JPEG", exif=exif, quality=95)


def decoded(
    data: bytes,
    decoding: DecodingName,
    rules: InputRules = INPUT,
    max_side: int | None = None,
    box: PixelBox | None = None,
    known: DecodedPicture | None = None,
) -> DecodedPicture:
    geometry = None if known is None else known.geometry
    picture_rules = PictureRules(64_000_000, decoding=decoding)
    return decode_picture(data, picture_rules, rules, geometry, max_side, box)


def error(fast: DecodedPicture, exact: DecodedPicture) -> float:
    """Return the root mean square of the differences of two inputs, in levels of 255."""
    assert fast.prepared is not None
    assert exact.prepared is not None
    assert fast.geometry == exact.geometry
    difference = fast.prepared.pixels.astype(float) - exact.prepared.pixels
    return float(np.sqrt((difference**2).mean()))


@pytest.mark.parametrize(
    ("size", "orientation"),
    [*product(SIZES[:1], range(1, 9)), *product(SIZES[1:], (1, 6))],
)
def test_the_model_sees_the_picture_where_it_is(size: tuple[int, int], orientation: int) -> None:
    data = photograph(size, orientation)
    # Two roundings to whole levels differ by 0.4; if the picture is half a pixel off, by 0.8.
    assert error(decoded(data, "fast"), decoded(data, "exact")) < 0.5


@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
@pytest.mark.parametrize("size", [(17, 5000), (5000, 33), (6001, 97)])
def test_the_model_sees_strips_as_they_are(size: tuple[int, int], fit: Fit) -> None:
    rules = InputRules(112, (16, 16), fit, "bicubic")
    data = photograph(size, 1)
    assert error(decoded(data, "fast", rules), decoded(data, "exact", rules)) < 0.7


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_region_is_cut_out_where_its_box_lies(orientation: int) -> None:
    data = photograph((4097, 2733), orientation)
    # An edge of a pixel at a quarter of the size is none of the box.
    for box in ((1, 2, 1202, 1399), (601, 447, 2002, 1849)):
        assert error(decoded(data, "fast", box=box), decoded(data, "exact", box=box)) < 0.6


@pytest.mark.parametrize("size", [(2049, 1401), (4097, 2733)])
@pytest.mark.parametrize("max_side", [64, 300, 1024, 1025, 1300, 2049])
def test_an_overlay_is_the_same_whether_the_trace_is_cached_or_not(
    size: tuple[int, int], max_side: int
) -> None:
    data = photograph(size, 6)
    first = decoded(data, "fast", max_side=max_side)
    second = decoded(data, "fast", max_side=max_side, known=first)
    exact = decoded(data, "exact", max_side=max_side)
    assert second.prepared is None
    np.testing.assert_array_equal(np.asarray(second.canvas), np.asarray(first.canvas))
    difference = np.asarray(first.canvas, float) - np.asarray(exact.canvas)
    assert np.sqrt((difference**2).mean()) < 1
