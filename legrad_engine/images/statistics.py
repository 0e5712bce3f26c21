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
    return summarize_all(heatmap[np.newaxis], geometry)[0]


def summarize_all(heatmaps: NDArray[np.floating], geometry: Geometry) -> list[Statistics]:
    """Compute the statistics of each raw map of a picture, see :func:`summarize`.

    Args:
        heatmaps: [targets, rows, columns], raw finite values over the patch grid.
        geometry: The geometry of the picture that the maps belong to.
    """
    rows, columns = geometry.content_cells
    content = heatmaps[:, rows, columns].astype(np.float64)
    _, height, width = content.shape
    values = content.reshape(len(content), height * width)
    shares = _shares(values)
    inner = shares.reshape(content.shape)[:, 1:-1, 1:-1].sum(axis=(1, 2))
    border = np.clip(1 - inner, 0, 1)
    numbers = zip(
        values.argmax(axis=1).tolist(),
        values.max(axis=1).tolist(),
        values.mean(axis=1).tolist(),
        _entropies(shares).tolist(),
        border.tolist(),
        strict=True,
    )
    return [
        Statistics(
            peak=peak,
            peak_position=_centre(
                rows.start + hottest // width, columns.start + hottest % width, geometry
            ),
            mean=mean,
            entropy=entropy,
            border_mass=border_mass,
        )
        for hottest, peak, mean, entropy, border_mass in numbers
    ]


def _centre(row: int, column: int, geometry: Geometry) -> tuple[int, int]:
    x, y, _, _ = geometry.grid_to_image((column + 0.5, row + 0.5, column + 0.5, row + 0.5))
    width, height = geometry.image_size
    return min(int(x), width - 1), min(int(y), height - 1)


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn each row of values into a distribution."""
    positive = np.maximum(values, 0)
    totals = positive.sum(axis=1, keepdims=True)
    positive[totals[:, 0] <= 0] = 1
    totals[totals <= 0] = values.shape[1]
    shares: NDArray[np.float64] = positive / totals
    return shares


def _entropies(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    patches = shares.shape[1]
    if patches == 1:
        return np.ones(len(shares))
    # The logarithm of 1 in place of 0: a share of 0 adds nothing.
    surprises = np.log(np.where(shares > 0, shares, 1))
    entropies: NDArray[np.float64] = -(shares * surprises).sum(axis=1) / np.log(patches)
    return np.clip(entropies, 0, 1)
