"""Order in which pixels are changed, and curves over the share that is changed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERTURBATION_STEPS = tuple(step / 10 for step in range(10))
"""Shares of pixels that the perturbation test removes: none, then 0.1 to 0.9."""


def order_of(heatmap: NDArray[np.floating]) -> NDArray[np.intp]:
    """Rank the pixels of a map, highest first; equal ones in reading order.

    Returns:
        [pixels], flat indices.
    """
    return np.argsort(-heatmap, axis=None, kind="stable")


def first(order: NDArray[np.intp], share: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Select the first share of an order of pixels, rounded down to whole pixels.

    Args:
        order: [height * width], flat indices.
        share: 0 to 1.
        shape: (height, width).

    Returns:
        bool [height, width].
    """
    # Floating point makes 0.3 * 10 of 3 pixels 2.9999...
    count = int(share * order.size + 1e-9)
    selected = np.zeros(order.size, np.bool_)
    selected[order[:count]] = True
    return selected.reshape(shape)


def area(shares: Sequence[float], values: Sequence[float]) -> float:
    """Compute the area under a curve by the trapezoid rule, over the shares as they are.

    Over :data:`PERTURBATION_STEPS` a constant value of 1 gives 0.9, not 1.

    Args:
        shares: [steps], ascending.
        values: [steps].
    """
    return float(np.trapezoid(values, shares))
