"""Summary statistics of a map, for monitoring drift over time."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine.images.geometry import Geometry

_LEAST = np.finfo(np.float64).tiny


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
    hottest = values.argmax(axis=1)
    numbers = zip(
        hottest.tolist(),
        values[np.arange(len(values)), hottest].tolist(),
        (values.sum(axis=1) / values.shape[1]).tolist(),
        _entropies(shares).tolist(),
        _between_0_and_1(1 - inner).tolist(),
        strict=True,
    )
    return [
        Statistics(
            peak=peak,
            peak_position=geometry.patch_centre(
                rows.start + place // width, columns.start + place % width
            ),
            mean=mean,
            entropy=entropy,
            border_mass=border_mass,
        )
        for place, peak, mean, entropy, border_mass in numbers
    ]


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn each row of values into a distribution."""
    positive = np.maximum(values, 0)
    totals = positive.sum(axis=1, keepdims=True)
    if not totals.all():
        positive[totals[:, 0] == 0] = 1
        totals[totals == 0] = values.shape[1]
    positive /= totals
    return positive


def _entropies(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    patches = shares.shape[1]
    if patches == 1:
        return np.ones(len(shares))
    # A share of 0 adds nothing: the logarithm of the least number in its place is finite.
    surprises = np.log(np.maximum(shares, _LEAST))
    surprises *= shares
    return _between_0_and_1(surprises.sum(axis=1) / -math.log(patches))


def _between_0_and_1(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove errors of rounding."""
    return np.minimum(np.maximum(values, 0), 1)
