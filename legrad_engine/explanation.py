"""What an explainer answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine.images.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the model looked in one picture, for each target.

    Attributes:
        maps: float32 (float64 for a float64 model) ``[targets, rows, columns]``: the summed LeGrad
            maps over the patch grid, not normalised.
        similarities: float32 ``[targets]``, the cosine that the model itself serves.
        probabilities: float32 ``[targets]``. Of a text: softmax of the model's logits over this
            picture's texts, or its own sigmoid where the model was trained with one. Of a class:
            the classifier's softmax over all its classes. NaN for any other kind.
        geometry: how the patch grid maps to the picture's original pixels.
    """

    maps: NDArray[np.floating]
    similarities: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    geometry: Geometry

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch grid."""
        return self.geometry.grid
