"""Negatives: targets whose maps are subtracted from, or mask, the maps of the other targets."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Geometry
from legrad_engine.images.rendering import normalize
from legrad_engine.targets import Target

NegativeMode = Literal["subtract", "mask"]
NegativePreset = Literal["siglip"]

DEFAULT_THRESHOLD = 0.8


@dataclass(frozen=True, slots=True)
class Negatives:
    """Targets whose maps correct the maps of the explained targets.

    Attributes:
        targets: the negatives. Templates do not apply to their texts.
        mode: ``"subtract"`` subtracts ``weight`` times the largest of the negatives' raw maps from
            each raw map and clips at zero. ``"mask"`` makes a map zero where a negative's map,
            stretched to 0 to 1 over the picture, exceeds ``threshold``.
        threshold: for ``"mask"``, at least 0 and below 1.
        weight: for ``"subtract"``, above 0.
    """

    targets: tuple[Target | str, ...]
    mode: NegativeMode = "subtract"
    threshold: float = DEFAULT_THRESHOLD
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.targets, tuple) or not self.targets:
            raise InvalidOptionError(
                "negatives need a tuple of at least one target.", field="negatives"
            )
        if self.mode not in get_args(NegativeMode):
            raise InvalidOptionError(
                f"mode {self.mode!r} of negatives is unknown: use one of "
                f"{', '.join(get_args(NegativeMode))}.",
                field="negatives",
            )
        if not 0 <= self.threshold < 1:
            raise InvalidOptionError(
                f"threshold {self.threshold} of negatives is not at least 0 and below 1.",
                field="negatives",
            )
        if not 0 < self.weight < float("inf"):
            raise InvalidOptionError(
                f"weight {self.weight} of negatives is not above 0 and finite.", field="negatives"
            )

    def apply(
        self,
        maps: NDArray[np.floating],
        negative_maps: NDArray[np.floating],
        geometry: Geometry,
    ) -> NDArray[np.floating]:
        """Correct the maps of one picture.

        Args:
            maps: ``[targets, rows, columns]``, raw values over the patch grid.
            negative_maps: ``[negatives, rows, columns]``, raw values over the same grid.
            geometry: the geometry of the picture.

        Returns:
            ``[targets, rows, columns]``, a new array.
        """
        if self.mode == "subtract":
            corrected: NDArray[np.floating] = maps - self.weight * negative_maps.max(0)
            return corrected.clip(min=0)
        # Values over the padding must not affect how the map is stretched.
        cells = geometry.content_cells
        masked = maps.copy()
        masked[:, *cells][:, (normalize(negative_maps[:, *cells]) > self.threshold).any(0)] = 0
        return masked


# The reference implementation's correction for SigLIP: its prompt, its threshold and its order (sum
# over layers, min-max, compare, zero). The reference has one map for all prompts; here each prompt
# has its own.
SIGLIP = Negatives(("a photo of a",), mode="mask", threshold=0.8)


def resolve_negatives(negatives: "Negatives | NegativePreset | None") -> Negatives | None:
    """Look up the negatives of a preset's name.

    Raises:
        InvalidOptionError: no preset of that name.
    """
    if negatives is None or isinstance(negatives, Negatives):
        return negatives
    if negatives == "siglip":
        return SIGLIP
    raise InvalidOptionError(
        f"negatives={negatives!r} is unknown: use 'siglip' or Negatives(...).", field="negatives"
    )
