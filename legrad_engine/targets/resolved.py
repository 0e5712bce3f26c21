"""Targets as unit vectors, ready for attribution."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legrad_engine.images.geometry import Geometry
from legrad_engine.targets import TargetKind
from legrad_engine.targets.negatives import Negatives


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedTargets:
    """One picture's targets as unit vectors.

    Attributes:
        vectors: ``[P, e]``, on the model's device and in its dtype.
        kinds: the kind of target of each row.
        classes: the class index of each ``class`` row, None for any other row.
        negatives: the correction of the maps; None for no correction.
        negative_vectors: ``[N, e]``, the negatives' unit vectors; no rows without a correction.
    """

    vectors: Tensor
    kinds: tuple[TargetKind, ...]
    classes: tuple[int | None, ...]
    negatives: Negatives | None
    negative_vectors: Tensor

    def __len__(self) -> int:
        """Return the number of targets, without negatives."""
        return len(self.kinds)

    @property
    def rows(self) -> Tensor:
        """``[P + N, e]``: the vectors of the targets, then those of the negatives."""
        if self.negatives is None:
            return self.vectors
        return torch.cat([self.vectors, self.negative_vectors])

    def rows_of(self, kind: TargetKind) -> list[int]:
        """Return the indices of the rows of one kind."""
        return [row for row, each in enumerate(self.kinds) if each == kind]

    def corrected(self, maps: NDArray[np.floating], geometry: Geometry) -> NDArray[np.floating]:
        """Correct the targets' maps by the negatives' maps.

        Args:
            maps: ``[P + N, rows, columns]``, the raw maps of :attr:`rows`.
            geometry: the geometry of the picture.

        Returns:
            ``[P, rows, columns]``.
        """
        if self.negatives is None:
            return maps
        count = len(self)
        return self.negatives.apply(maps[:count], maps[count:], geometry)
