"""JPEG files that are decoded smaller: where the picture lies on the pixels that are left."""

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images.decoding import Versions, decode, decode_versions
from legrad_engine.images.resizing import resize_exactly
from tests.support.pictures import encoded, picture

PART = 8
MIRRORED_ACROSS, MIRRORED_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)


def stored(size: tuple[int, int], orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(*size), kind, exif=exif, quality=100, subsampling=0)


def smaller(data: bytes) -> Versions:
    return decode_versions(data, least_size=lambda size: (size[0] // PART, size[1] // PART))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_side_that_is_no_multiple_leaves_a_part_of_a_pixel_empty(orientation: int) -> None:
    versions = smaller(stored((161, 93), orientation))
    width, height = (93, 161) if orientation >= 5 else (161, 93)
    assert versions.full_size == (width, height)
    assert versions.srgb.size == (-(-width // PART), -(-height // PART))
    left, top, right, bottom = versions.shown
    assert (right - left, bottom - top) == (width / PART, height / PART)
    empty_at_the_start = (left > 0, top > 0)
    assert empty_at_the_start == (orientation in MIRRORED_ACROSS, orientation in MIRRORED_DOWN)
    assert (right < versions.srgb.width, bottom < versions.srgb.height) == (left == 0, top == 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(641, 377), (642, 380), (647, 379)])
def test_the_box_that_is_shown_lies_where_the_whole_picture_does(
    size: tuple[int, int], orientation: int
) -> None:
    data = stored(size, orientation)
    versions, whole = smaller(data), decode(data)
    new = (24, 24)
    expected = np.asarray(resize_exactly(whole, new, "bicubic"), float)
    error, unplaced = (
        np.abs(np.asarray(resize_exactly(versions.srgb, new, "bicubic", box)) - expected).mean()
        for box in (versions.shown, None)
    )
    assert error < 0.5
    assert unplaced > 2


def test_a_picture_that_is_a_multiple_or_decoded_whole_fills_its_pixels() -> None:
    for data in (stored((160, 96), 6), stored((161, 93), 6, "PNG")):
        versions = smaller(data)
        assert versions.shown == (0, 0, *versions.srgb.size)
    assert smaller(stored((160, 96), 6)).srgb.size == (12, 20)
