"""Deletion and insertion curves less a random order, and SaCo."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.metrics.perturbation import PERTURBATION_STEPS, area
from legrad_engine.evaluation.metrics.saco import saco, saliency_groups
from legrad_engine.measurements.base import Subjects
from legrad_engine.measurements.trust.perturbation import (
    can_be_perturbed,
    random_order,
    warmest_first,
    without,
)
from legrad_engine.measurements.trust.removing import Reduced, scores_without, whole_scores

_SHARES = PERTURBATION_STEPS[1:]


@dataclass(frozen=True, slots=True)
class Curves:
    """How the score of one target follows the whole order of its map.

    The score and the way of removal are those of
    :class:`~legrad_engine.measurements.trust.perturbation.Perturbation`.

    Attributes:
        deletion: area under the score while 0 to 0.9 of the patches are removed, warmest first,
            less the area of a random order. Below 0 is good.
        insertion: area under the score while 0.1 to 1 of the patches are shown, warmest first, less
            the area of the random order. Above 0 is good.
        saco: the salience-guided faithfulness coefficient of 10 groups, -1 to 1; None if all groups
            are equally warm.
    """

    deletion: float
    insertion: float
    saco: float | None


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The reduced pictures of one target.

    Attributes:
        deletion: for each share of removed patches.
        insertion: for each share of shown patches.
        groups: without each group.
        saliencies: mean of the map in each group.
    """

    deletion: list[Reduced]
    insertion: list[Reduced]
    groups: list[Reduced]
    saliencies: list[float]

    @property
    def all(self) -> list[Reduced]:
        """All of them."""
        return [*self.deletion, *self.insertion, *self.groups]


def measure_curves(subjects: Subjects) -> list[list[Curves] | None]:
    """Measure every target of every picture; None for a picture of a single patch."""
    inputs: list[list[_Inputs]] = []
    baselines: list[list[Reduced]] = []
    for image, explanation in enumerate(subjects.explanations):
        geometry = explanation.geometry
        usable = can_be_perturbed(geometry)
        drawn = random_order(geometry)
        inputs.append(
            [_inputs(image, each, warmest_first(each, geometry)) for each in explanation.maps]
            if usable
            else []
        )
        baselines.append(_deleted(image, drawn) if usable else [])
    scores = scores_without(
        subjects,
        [
            *(each for rows in inputs for target in rows for each in target.all),
            *(each for rows in baselines for each in rows),
        ],
    )
    whole = whole_scores(subjects)

    def curve(reduced: list[Reduced], row: int) -> list[float]:
        return [float(scores[each][row]) for each in reduced]

    found: list[list[Curves] | None] = []
    for image, targets in enumerate(inputs):
        rows = []
        for row, target in enumerate(targets):
            intact = float(whole[image][row])
            random = curve(baselines[image], row)
            rows.append(
                Curves(
                    deletion=_deletion(intact, curve(target.deletion, row))
                    - _deletion(intact, random),
                    # The random order is shown in reverse: the same patches are left.
                    insertion=_insertion(intact, curve(target.insertion, row))
                    - _insertion(intact, random[::-1]),
                    saco=saco(
                        target.saliencies, [intact - each for each in curve(target.groups, row)]
                    ),
                )
            )
        found.append(rows or None)
    return found


def _inputs(image: int, heatmap: NDArray[np.floating], order: NDArray[np.intp]) -> _Inputs:
    groups = [group for group in saliency_groups(order) if len(group)]
    values = heatmap.ravel()
    return _Inputs(
        deletion=_deleted(image, order),
        # Showing the warmest patches first is removing the coldest ones first, in reverse.
        insertion=_deleted(image, order[::-1])[::-1],
        groups=[without(image, group) for group in groups],
        saliencies=[float(values[group].mean(dtype=np.float64)) for group in groups],
    )


def _deleted(image: int, order: NDArray[np.intp]) -> list[Reduced]:
    # Floating point makes 0.3 * 10 of 3 patches 2.9999...
    return [without(image, order[: int(share * len(order) + 1e-9)]) for share in _SHARES]


def _deletion(intact: float, scores: list[float]) -> float:
    return area(PERTURBATION_STEPS, [intact, *scores])


def _insertion(intact: float, scores: list[float]) -> float:
    return area([*_SHARES, 1.0], [*scores, intact])
