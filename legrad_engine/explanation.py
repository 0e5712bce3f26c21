"""Result of an explanation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine.images.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Explanation:
    """Maps and scores of one picture, for each target.

    Attributes:
        maps: float32 (float64 for a float64 model) ``[targets, rows, columns]``: the maps over the
            patch grid, not normalised; ``[heads, rows, columns]`` with ``heads="each"``.
        similarities: float32 ``[targets]``, the model's own cosine of picture and target.
        probabilities: float32 ``[targets]``. For a text: softmax of the model's logits over this
            picture's texts, or a sigmoid if the model was trained with one. For a class: the
            classifier's softmax over all its classes. NaN for any other kind.
        geometry: mapping from the patch grid to the pixels of the original picture.
    """

    maps: NDArray[np.floating]
    similarities: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    geometry: Geometry

    @property
    def is_finite(self) -> bool:
        """Whether all maps and similarities are finite numbers; an overflow makes others."""
        return bool(np.isfinite(self.maps).all() and np.isfinite(self.similarities).all())

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch grid."""
        return self.geometry.grid
