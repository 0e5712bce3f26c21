"""Measures of how a model's score follows the parts that a map calls important."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import splu

BLUR_SIGMA = 5.0
BLUR_RADIUS = 5
ROAD_SHARES = tuple(percentile / 100 for percentile in range(10, 100, 10))
ROAD_NOISE = 0.01

# Down and right; the equations are symmetric. Direct neighbours weigh twice the diagonal ones.
_NEIGHBOURS = ((0, 1, 1 / 6), (1, 0, 1 / 6), (1, 1, 1 / 12), (1, -1, 1 / 12))


def blur(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur a picture by a Gaussian of sigma 5, cut to 11 x 11 pixels, with repeated edges.

    Args:
        pixels: float32 [channels, height, width].
    """
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(
        pixels, BLUR_SIGMA, radius=BLUR_RADIUS, axes=(1, 2), mode="nearest"
    )
    return blurred


class NeighbourMeans:
    """Linear imputation of missing pixels (ROAD, arXiv 2202.00449).

    Each missing pixel is the weighted mean of its neighbours in the picture: 1/6 for direct ones,
    1/12 for diagonal ones. The means of missing neighbours make a sparse linear system.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Prepare the weights of pictures of (height, width)."""
        height, width = shape
        index = np.arange(height * width).reshape(shape)
        rows, columns, weights = [], [], []
        for down, across, weight in _NEIGHBOURS:
            here = index[: height - down, max(0, -across) : width - max(0, across)].ravel()
            there = index[down:, max(0, across) : width - max(0, -across)].ravel()
            rows += [here, there]
            columns += [there, here]
            weights += [np.full(2 * len(here), weight)]
        places = (np.concatenate(rows), np.concatenate(columns))
        self._weights = csr_array(coo_array((np.concatenate(weights), places), (index.size,) * 2))
        self._sums = np.asarray(self._weights.sum(1)).ravel()

    def fill(
        self,
        pixels: NDArray[np.float32],
        missing: NDArray[np.bool_],
        noise: float,
        generator: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Fill missing pixels and add noise to them.

        Args:
            pixels: float32 [channels, height, width].
            missing: bool [height, width]; at least one pixel is left.
            noise: standard deviation of the Gaussian noise.
            generator: of the noise.
        """
        flat = pixels.reshape(len(pixels), -1)
        unknown, known = np.flatnonzero(missing), np.flatnonzero(~missing)
        filled = flat.copy()
        if len(unknown):
            rows = self._weights[unknown]
            # Columns first: weights of one missing pixel on the others, and on those that are left.
            system = (
                coo_array(
                    (self._sums[unknown], (np.arange(len(unknown)),) * 2), (len(unknown),) * 2
                ).tocsc()
                - rows[:, unknown].tocsc()
            )
            # The system is symmetric and diagonally dominant: pivots need no search.
            solver = splu(
                system.tocsc(),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
            solved = solver.solve(rows[:, known] @ flat[:, known].T.astype(np.float64))
            means = solved.T
            filled[:, unknown] = means + noise * generator.standard_normal(means.shape)
        return filled.reshape(pixels.shape)


def road(least_first: Sequence[float], most_first: Sequence[float]) -> float:
    """Combine the scores of ROAD: half the mean difference of both orders of removal.

    Args:
        least_first: [shares], scores after the least relevant pixels are imputed.
        most_first: [shares], scores after the most relevant pixels are imputed.
    """
    return float(np.mean(least_first) - np.mean(most_first)) / 2
