"""Salience-guided faithfulness: whether groups of patches matter as much as their map says."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SACO_GROUPS = 10


def saliency_groups(order: NDArray[np.intp], groups: int = SACO_GROUPS) -> list[NDArray[np.intp]]:
    """Divide pixels in their order into groups of equal size, to within one pixel."""
    return np.array_split(order, groups)


def saco(saliencies: Sequence[float], drops: Sequence[float]) -> float | None:
    """Compute the salience-guided faithfulness coefficient (SaCo, CVPR 2024).

    For each pair of groups, i before j, the difference of their saliencies is added if removing i
    lowers the score at least as much as removing j, and subtracted otherwise. The saliency of a
    group is its mean in place of the paper's sum: the factor cancels, and groups whose sizes differ
    by one are compared fairly.

    Args:
        saliencies: [groups], the mean of the map in each group, highest first.
        drops: [groups], the loss of score when only this group is removed.

    Returns:
        -1 to 1; None if all saliencies are equal.
    """
    weight = total = 0.0
    for before in range(len(drops)):
        for after in range(before + 1, len(drops)):
            difference = saliencies[before] - saliencies[after]
            weight += difference if drops[before] >= drops[after] else -difference
            total += abs(difference)
    return weight / total if total else None
