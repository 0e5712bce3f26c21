"""Boxes in the pixels of a picture, and the region of a picture that a box marks."""

import math
from typing import TypeAlias

from PIL import Image

from legrad_engine.errors import InvalidTargetError
from legrad_engine.images.geometry import Box

PixelBox: TypeAlias = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the upright original; right and bottom are exclusive."""


def fault_of(
    box: PixelBox, image_size: tuple[int, int], least: tuple[int, int] = (1, 1)
) -> str | None:
    """Return the reason for which a box is no region of a picture; None if it is one.

    Args:
        box: the box.
        image_size: (width, height) of the upright original, in pixels.
        least: (width, height) in pixels of the model's patch, the smallest box.
    """
    left, top, right, bottom = box
    width, height = image_size
    name = f"The box from {left}, {top} to {right}, {bottom}"
    if right <= left or bottom <= top:
        return f"{name} is empty: right must exceed left, and bottom top."
    if left < 0 or top < 0 or right > width or bottom > height:
        return f"{name} leaves the picture, which has {width} x {height} pixels, upright."
    if right - left < least[0] or bottom - top < least[1]:
        return (
            f"{name} is smaller than a patch of the model, {least[0]} x {least[1]} pixels: take a "
            "larger one, or a picture with more pixels."
        )
    return None


def check_region(box: PixelBox, image_size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Refuse the box of a target picture that is no region of it.

    Args:
        box: the box.
        image_size: (width, height) of the upright picture, in pixels.
        patch: (width, height) of the model's patch, in pixels.

    Raises:
        InvalidTargetError: it is empty, leaves the picture or is smaller than a patch.
    """
    fault = fault_of(box, image_size, patch)
    if fault is not None:
        raise InvalidTargetError(fault, field="box")


def scale_box(box: PixelBox, image_size: tuple[int, int], size: tuple[int, int]) -> PixelBox:
    """Return a box in the pixels of a resized picture, at least one pixel wide and high.

    Args:
        box: a box of the original.
        image_size: (width, height) of the original, in pixels.
        size: (width, height) of the resized picture.
    """
    edges = []
    for axis in (0, 1):
        scale = size[axis] / image_size[axis]
        start = min(round(box[axis] * scale), size[axis] - 1)
        edges.append((start, max(start + 1, round(box[axis + 2] * scale))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def crop(
    picture: Image.Image, shown: Box, box: PixelBox, image_size: tuple[int, int]
) -> tuple[Image.Image, Box]:
    """Cut the region of a picture out of a reduced copy of it.

    Args:
        picture: the copy.
        shown: the box of the copy, in its pixels, that the original fills.
        box: a box of the original that lies in it.
        image_size: (width, height) of the original, in pixels.

    Returns:
        The pixels that show a part of the region, and the box that it fills among them.
    """
    across = (shown[2] - shown[0]) / image_size[0]
    down = (shown[3] - shown[1]) / image_size[1]
    left, right = (shown[0] + across * edge for edge in (box[0], box[2]))
    top, bottom = (shown[1] + down * edge for edge in (box[1], box[3]))
    start, above = math.floor(left), math.floor(top)
    region = picture.crop((start, above, math.ceil(right), math.ceil(bottom)))
    return region, (left - start, top - above, right - start, bottom - above)


def size_for_region(
    box: PixelBox, image_size: tuple[int, int], least: tuple[int, int]
) -> tuple[int, int]:
    """Return the (width, height) of a picture in which a region has at least a given size.

    Args:
        box: the region's box in the original; a box that is none asks for the original's size.
        image_size: (width, height) of the original, in pixels.
        least: (width, height) that the region needs.
    """
    if fault_of(box, image_size) is not None:
        return image_size
    left, top, right, bottom = box
    return (
        -(-least[0] * image_size[0] // (right - left)),
        -(-least[1] * image_size[1] // (bottom - top)),
    )
