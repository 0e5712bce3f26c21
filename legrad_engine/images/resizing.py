"""Resizing of pictures by Pillow's filters: exactly, or in a fifth of the time."""

import math
from typing import Literal, Protocol, TypeAlias

import numpy as np
from PIL import Image

from legrad_engine.images.geometry import Box
from legrad_engine.models.preprocessing import Interpolation

try:
    import cykooz_resizer as vectorised
except ImportError:
    # It has no wheel for Linux on ARM; there everything is resized exactly.
    vectorised = None


class Resize(Protocol):
    """Resizes an RGB picture, or a box of it, to (width, height)."""

    def __call__(
        self,
        picture: Image.Image,
        size: tuple[int, int],
        interpolation: Interpolation,
        box: Box | None = None,
        /,
    ) -> Image.Image:
        """See :func:`resize_exactly`."""


_EXACT: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_FAST: dict[Interpolation, str] = {
    "box": "box",
    "bilinear": "bilinear",
    "bicubic": "catmull_rom",
    "lanczos": "lanczos3",
}

_Axis: TypeAlias = Literal[0, 1]

# Pillow stores a pixel of an RGB picture in four bytes.
_BYTES_PER_PIXEL = 4
# Pillow takes less memory between the two steps.
_MOST_BYTES_BETWEEN = 2**26
# The library's own memory: its weights, of which each pixel of a line has a few, and the rest.
_WEIGHT_BYTES = 96
_ROOM_BYTES = 2**20


def resize_exactly(
    picture: Image.Image,
    size: tuple[int, int],
    interpolation: Interpolation,
    box: Box | None = None,
) -> Image.Image:
    """Resize a picture as torchvision and the models' own pipelines do.

    Args:
        picture: RGB.
        size: (width, height) in pixels.
        interpolation: the filter.
        box: the part that is resized, in pixels that may be fractions; None for the whole.
    """
    return picture.resize(size, _EXACT[interpolation], box)


def resize_fast(
    picture: Image.Image,
    size: tuple[int, int],
    interpolation: Interpolation,
    box: Box | None = None,
) -> Image.Image:
    """Resize a picture by vector instructions.

    One value in a hundred differs from that of :func:`resize_exactly`, by a level or two. Filters
    that the library lacks are exact.

    Args:
        picture: RGB.
        size: (width, height) in pixels.
        interpolation: the filter.
        box: the part that is resized, in pixels that may be fractions; None for the whole.

    Raises:
        MemoryError: there is not enough memory.
    """
    edges = box or (0.0, 0.0, *picture.size)
    first, second = _axes_in_order(picture.size, size)
    between = _with_side(picture.size, first, size[first])
    is_fast = vectorised is not None and interpolation in _FAST
    is_large = math.prod(between) * _BYTES_PER_PIXEL > _MOST_BYTES_BETWEEN
    is_same = picture.size == size and edges == (0, 0, *size)
    if not is_fast or is_large or is_same:
        return resize_exactly(picture, size, interpolation, box)
    step = _Step(_FAST[interpolation], edges)
    return step.resized(step.resized(picture, first, size[first]), second, size[second])


class _Step:
    """Resizes a box of a picture along one side, in the memory of Pillow."""

    def __init__(self, kernel: str, edges: Box) -> None:
        self._algorithm = vectorised.ResizeAlg.convolution(vectorised.FilterType[kernel])
        self._resizer = vectorised.Resizer()
        self._edges = edges

    def resized(self, picture: Image.Image, axis: _Axis, length: int) -> Image.Image:
        start, stop = self._edges[axis], self._edges[axis + 2]
        if (start, stop, length) == (0, length, picture.size[axis]):
            return picture
        crop = (
            vectorised.CropBox(start, 0, stop - start, picture.height)
            if axis == 0
            else vectorised.CropBox(0, start, picture.width, stop - start)
        )
        resized = Image.new("RGB", _with_side(picture.size, axis, length), None)
        _require(_ROOM_BYTES + _WEIGHT_BYTES * max(picture.size[axis], length))
        self._resizer.resize_pil(
            picture, resized, vectorised.ResizeOptions(self._algorithm, crop_box=crop)
        )
        return resized


def _axes_in_order(old: tuple[int, int], new: tuple[int, int]) -> tuple[_Axis, _Axis]:
    """Return the axes to resize along, in the order of Pillow 13.

    Values between the two steps are rounded: in the other order every fifth value would differ.
    """
    narrowed, lowered = old[0] - new[0], old[1] - new[1]
    return (1, 0) if lowered > max(0, 2 * narrowed) else (0, 1)


def _with_side(size: tuple[int, int], axis: _Axis, length: int) -> tuple[int, int]:
    return (length, size[1]) if axis == 0 else (size[0], length)


def _require(nbytes: int) -> None:
    """Raise MemoryError if there is not this much memory.

    The library ends the process where it gets no memory. It gets what is allocated and freed here.
    """
    np.empty(nbytes, np.uint8)
