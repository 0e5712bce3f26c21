"""Targets as unit vectors, ready to be walked back from."""

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
        kinds: what each row is.
        classes: the class of each ``class`` row, None for any other.
        negatives: the rule that corrects the maps, if any.
        negative_vectors: ``[N, e]``, the negatives' unit vectors; no row where there is no rule.
    """

    vectors: Tensor
    kinds: tuple[TargetKind, ...]
    classes: tuple[int | None, ...]
    negatives: Negatives | None
    negative_vectors: Tensor

    def __len__(self) -> int:
        """The number of targets, without negatives."""
        return len(self.kinds)

    @property
    def rows(self) -> Tensor:
        """``[P + N, e]``: every vector that is walked back from."""
        return torch.cat([self.vectors, self.negative_vectors])

    def rows_of(self, kind: TargetKind) -> list[int]:
        """The rows that are of one kind."""
        return [row for row, each in enumerate(self.kinds) if each == kind]

    def corrected(self, maps: NDArray[np.floating], geometry: Geometry) -> NDArray[np.floating]:
        """The targets' maps ``[P, rows, columns]``, out of those of all ``P + N`` rows."""
        if self.negatives is None:
            return maps
        count = len(self)
        return self.negatives.apply(maps[:count], maps[count:], geometry)
