"""Summary statistics of a map, for monitoring drift over time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine.images.geometry import Geometry


@dataclass(frozen=True)
class Statistics:
    """Statistics of one raw map over the patches that show the picture, without padding.

    Attributes:
        peak: Largest raw value.
        peak_position: (x, y) of the centre of that patch, in pixels of the original picture.
        mean: Mean raw value.
        entropy: Entropy of the map as a distribution over patches, divided by the entropy of a
            uniform map: 0 for a single hot patch, 1 for a uniform map.
        border_mass: Share of the map's total in the outermost ring of patches, 0 to 1. High values
            are typical of maps that follow the frame instead of the content.
    """

    peak: float
    peak_position: tuple[int, int]
    mean: float
    entropy: float
    border_mass: float


def summarize(heatmap: NDArray[np.floating], geometry: Geometry) -> Statistics:
    """Compute the statistics of one raw map.

    As a distribution, negative values count as 0 and a map without any positive value counts as
    uniform, so entropy and border mass are always finite.

    Args:
        heatmap: [rows, columns], raw finite values over the patch grid.
        geometry: The geometry of the picture that the map belongs to.
    """
    rows, columns = geometry.content_cells
    content = heatmap[rows, columns].astype(np.float64)
    row, column = (int(index) for index in np.unravel_index(content.argmax(), content.shape))
    return Statistics(
        peak=float(content[row, column]),
        peak_position=_centre(rows.start + row, columns.start + column, geometry),
        mean=float(content.mean()),
        entropy=_entropy(content),
        border_mass=_border_mass(content),
    )


def _centre(row: int, column: int, geometry: Geometry) -> tuple[int, int]:
    x, y, _, _ = geometry.grid_to_image((column + 0.5, row + 0.5, column + 0.5, row + 0.5))
    width, height = geometry.image_size
    return min(int(x), width - 1), min(int(y), height - 1)


def _entropy(content: NDArray[np.float64]) -> float:
    if content.size == 1:
        return 1.0
    shares = _distribution(content)
    shares = shares[shares > 0]
    return min(1.0, max(0.0, float(-(shares * np.log(shares)).sum() / np.log(content.size))))


def _border_mass(content: NDArray[np.float64]) -> float:
    inner = _distribution(content)[1:-1, 1:-1].sum()
    return min(1.0, max(0.0, 1.0 - float(inner)))


def _distribution(content: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.clip(content, 0, None)
    total = positive.sum()
    if total <= 0:
        return np.full_like(content, 1 / content.size)
    distribution: NDArray[np.float64] = positive / total
    return distribution
