"""Boxes in the pixels of a picture, and the region of a picture that a box marks."""

from typing import TypeAlias

from PIL import Image

from legrad_engine.errors import InvalidTargetError

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


def crop(picture: Image.Image, box: PixelBox, image_size: tuple[int, int]) -> Image.Image:
    """Return the region of a picture, or of a reduced copy of it.

    Args:
        picture: the picture or its copy.
        box: a box of the original.
        image_size: (width, height) of the original, in pixels.
    """
    return picture.crop(scale_box(box, image_size, picture.size))


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
