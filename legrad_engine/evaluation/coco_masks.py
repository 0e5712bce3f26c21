"""Masks of COCO: run lengths and polygons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.errors import SampleError


def mask_of(segmentation: Any, size: tuple[int, int], source: object) -> NDArray[np.bool_]:
    """Decode the segmentation of one annotation.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...]; or run lengths, as numbers or as COCO's
            text.
        size: (width, height) of the picture.
        source: the annotation, for the error.

    Returns:
        bool [height, width]. Run lengths are exact. Of polygons the pixels whose centre is
        inside count, which may differ from pycocotools along the outline.

    Raises:
        SampleError: it is in none of these forms, or of another size.
    """
    try:
        if isinstance(segmentation, Mapping):
            return _of_runs(segmentation, size)
        return _of_polygons(segmentation, size)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"{source} has a damaged segmentation: {error}", field="data") from error


def decode_counts(text: str) -> list[int]:
    """Decode COCO's text of run lengths: five bits for each character, little end first.

    From the fourth on, a number is the difference to the one two places before it.

    Raises:
        ValueError: a character is outside the code, or the text ends within a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} is no run length.")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("The run lengths end within a number.")
    return counts


def _of_runs(runs: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    width, height = size
    if [int(side) for side in runs["size"]] != [height, width]:
        raise ValueError(f"its size is {runs['size']}, the picture's [{height}, {width}].")
    counts = runs["counts"]
    lengths = np.asarray(decode_counts(counts) if isinstance(counts, str) else counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != width * height:
        raise ValueError("its run lengths do not fill the picture.")
    # Background first, in columns.
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _of_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    joined = np.zeros((size[1], size[0]), np.bool_)
    for polygon in polygons:
        corners = np.asarray(polygon, np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            raise ValueError("a polygon needs at least three corners.")
        if not np.isfinite(corners).all():
            raise ValueError("a corner of a polygon is no number.")
        joined |= _inside(corners.reshape(-1, 2), size)
    return joined


def _inside(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Find the pixels whose centre has an odd number of a polygon's edges on its left."""
    width, height = size
    crossed = np.zeros((height, width + 1), np.bool_)
    centres = np.arange(height) + 0.5
    for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, 0), strict=True):
        rows = np.flatnonzero((y <= centres) != (next_y <= centres))
        if len(rows):
            crossings = x + (centres[rows] - y) * ((next_x - x) / (next_y - y))
            columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.intp)
            crossed[rows, columns] ^= True
    return np.logical_xor.accumulate(crossed, axis=1)[:, :width]
