"""Boxes of pictures: faults, and regions of reduced copies."""

import numpy as np
import pytest
from PIL import Image

from legrad_engine.errors import InvalidTargetError
from legrad_engine.images.cropping import (
    PixelBox,
    check_region,
    crop,
    fault_of,
    scale_box,
    size_for_region,
)

SIZE = (80, 60)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((10, 10, 10, 30), "empty"),
        ((10, 10, 5, 30), "empty"),
        ((10, 30, 20, 20), "empty"),
        ((-1, 0, 20, 20), "leaves"),
        ((0, 0, 81, 60), "leaves"),
        ((0, 0, 80, 61), "leaves"),
        ((90, 90, 120, 120), "leaves"),
        ((0, 0, 15, 60), "smaller than a patch"),
        ((0, 0, 80, 15), "smaller than a patch"),
    ],
)
def test_a_box_that_is_no_region_is_refused(box: PixelBox, reason: str) -> None:
    with pytest.raises(InvalidTargetError, match=reason) as refused:
        check_region(box, SIZE, (16, 16))
    assert refused.value.field == "box"


@pytest.mark.parametrize("box", [(0, 0, 80, 60), (64, 44, 80, 60), (0, 0, 16, 16)])
def test_a_box_up_to_the_edges_and_down_to_a_patch_is_taken(box: PixelBox) -> None:
    check_region(box, SIZE, (16, 16))
    assert fault_of(box, SIZE) is None


def test_a_box_of_a_reduced_copy_is_never_empty() -> None:
    assert scale_box((40, 30, 80, 60), SIZE, (8, 6)) == (4, 3, 8, 6)
    assert scale_box((79, 59, 80, 60), SIZE, (8, 6)) == (7, 5, 8, 6)
    assert scale_box((0, 0, 1, 1), SIZE, (8, 6)) == (0, 0, 1, 1)


def test_a_region_is_cut_out_of_the_picture_and_of_its_copy() -> None:
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[30:, 40:] = 200
    picture = Image.fromarray(pixels)
    for each in (picture, picture.reduce(2)):
        region, filled = crop(each, (0, 0, *each.size), (40, 30, 80, 60), SIZE)
        assert region.size == (each.width // 2, each.height // 2)
        assert filled == (0, 0, *map(float, region.size))
        assert (np.asarray(region) == 200).all()


def test_a_region_of_a_copy_keeps_its_parts_of_pixels() -> None:
    # 79 x 57 pixels at a quarter, turned so that the parts of pixels are at the left and the top.
    copy = Image.new("RGB", (20, 15))
    shown = (0.25, 0.75, 20, 15)
    region, filled = crop(copy, shown, (0, 0, 79, 57), (79, 57))
    assert (region.size, filled) == ((20, 15), shown)
    region, filled = crop(copy, shown, (13, 9, 20, 54), (79, 57))
    # 3.5 to 5.25 across and 3 to 14.25 down.
    assert (region.size, filled) == ((3, 12), (0.5, 0, 2.25, 11.25))


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 80, 60), (24, 24)), ((0, 0, 40, 20), (48, 72)), ((0, 0, 0, 20), SIZE)],
)
def test_a_copy_is_large_enough_for_the_region(box: PixelBox, expected: tuple[int, int]) -> None:
    assert size_for_region(box, SIZE, (24, 24)) == expected
