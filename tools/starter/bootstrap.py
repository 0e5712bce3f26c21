"""Standard errors of measures on scenes, by a bootstrap over drawings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 2000
_SEED = 0


def standard_error(values: ArrayLike, drawings: ArrayLike) -> float:
    """Estimate the standard error of a mean by drawing drawings with replacement.

    What a family of art tells about art by the same hands is limited by its number of drawings.
    Scenes of the same drawing repeat it, so a bootstrap over scenes would count it more than once.

    Args:
        values: `[values]`, numbers or truth values.
        drawings: int `[values]`, the drawing that each value is about.

    Returns:
        The standard deviation of the means; 0 if all values are of one drawing.
    """
    _, numbers = np.unique(np.asarray(drawings), return_inverse=True)
    sums = np.bincount(numbers, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(numbers)
    generator = np.random.default_rng(_SEED)
    taken = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), _RESAMPLES)
    return float(np.std(taken @ sums / (taken @ counts)))
