"""Regions of a picture where a map is high."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Geometry, upsample
from legrad_engine.images.rendering import normalize

DEFAULT_THRESHOLD = 0.5
MAX_REGIONS = 32

# Longer side in pixels of the map that regions are found on. A patch grid has a few dozen cells per
# side, so edges are exact to a small part of a patch, for pictures of any size.
_WORKING_SIDE = 256


@dataclass(frozen=True)
class Region:
    """Connected part of the picture where the min-max normalised map reaches the threshold.

    Attributes:
        box: (left, top, right, bottom) in pixels of the original picture; right and bottom are
            exclusive.
        area: Share of the picture, 0 to 1.
        peak: Largest value inside, 0 to 1.
        peak_position: (x, y) of the peak in pixels of the original picture.
        mean: Mean value inside, 0 to 1.
    """

    box: tuple[int, int, int, int]
    area: float
    peak: float
    peak_position: tuple[int, int]
    mean: float


def find_regions(
    heatmap: NDArray[np.floating], geometry: Geometry, threshold: float = DEFAULT_THRESHOLD
) -> list[Region]:
    """Find the connected regions of one map, diagonal neighbours included.

    Args:
        heatmap: [rows, columns], raw values over the patch grid.
        geometry: The geometry of the picture that the map belongs to.
        threshold: Share of the map's own range, above 0 and at most 1.

    Returns:
        At most MAX_REGIONS regions, those with the most heat (mean times area) first; no region for
        a constant map.

    Raises:
        InvalidOptionError: The threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise InvalidOptionError(
            f"threshold {threshold} is not above 0 and at most 1.", field="threshold"
        )
    width, height = geometry.image_size
    scale = min(1.0, _WORKING_SIDE / max(width, height))
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    values = normalize(upsample(heatmap[np.newaxis], geometry, (columns, rows)))[0]
    labels, count = ndimage.label(values >= threshold, structure=np.ones((3, 3)))
    heat = ndimage.sum_labels(values, labels, np.arange(1, count + 1))
    hottest = np.argsort(-heat, kind="stable")[:MAX_REGIONS]
    slices = ndimage.find_objects(labels)

    def describe(index: int) -> Region:
        down, across = slices[index]
        inside = labels[down, across] == index + 1
        masked = np.where(inside, values[down, across], 0)
        peak_row, peak_column = np.unravel_index(masked.argmax(), masked.shape)
        return Region(
            box=(
                across.start * width // columns,
                down.start * height // rows,
                -(-across.stop * width // columns),
                -(-down.stop * height // rows),
            ),
            area=float(inside.sum() / values.size),
            peak=float(masked.max()),
            peak_position=(
                int((across.start + peak_column + 0.5) * width / columns),
                int((down.start + peak_row + 0.5) * height / rows),
            ),
            mean=float(heat[index] / inside.sum()),
        )

    return [describe(int(index)) for index in hottest]
