"""The measurement `trust`: one result for each target of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, get_args

from legrad_engine.errors import LegradError, check_choice
from legrad_engine.evaluation.metrics.perturbation import PERTURBATION_STEPS
from legrad_engine.evaluation.metrics.saco import SACO_GROUPS
from legrad_engine.measurements.base import Asked, Measured, Measurement, Subjects
from legrad_engine.measurements.trust.agreement import Agreement, measure_agreement
from legrad_engine.measurements.trust.curves import Curves, measure_curves
from legrad_engine.measurements.trust.levels import TrustLevel
from legrad_engine.measurements.trust.perturbation import (
    SHARE,
    Perturbation,
    measure_perturbation,
)
from legrad_engine.targets.text import TEXT_SHARE


@dataclass(frozen=True, slots=True)
class TargetTrust:
    """Numbers about the trust in the map of one target.

    Attributes:
        level: how much was measured.
        agreement: agreement of the map with others.
        perturbation: the score without some patches; None at level ``"free"``, and for a picture of
            a single patch.
        curves: the score along the whole order of the map; None below level ``"curves"``, and for a
            picture of a single patch.
    """

    level: TrustLevel
    agreement: Agreement
    perturbation: Perturbation | None
    curves: Curves | None


@dataclass(frozen=True, slots=True)
class Trust(Measurement):
    """Trust in the maps of the targets.

    Attributes:
        level: how much is measured.
    """

    level: TrustLevel
    name: ClassVar[str] = "trust"

    def __post_init__(self) -> None:
        """Check the level.

        Raises:
            InvalidOptionError: unknown level.
        """
        check_choice("trust", self.level, get_args(TrustLevel))

    @property
    def needs_pixels(self) -> bool:
        """See :attr:`Measurement.needs_pixels`."""
        return self.level != "free"

    def check(self, asked: Asked) -> None:
        """See :meth:`Measurement.check`."""
        self.refuse_heads(asked)

    def work(self, asked: Asked) -> float:
        """See :meth:`Measurement.work`."""
        tower, method, layers = asked.explainer.tower, asked.method, asked.layers
        # Blocks, signed sums and the neutral prompt; with negatives, the maps without them.
        rows = asked.question.rows
        total = method.work(tower, layers, 3 * rows + 1, traced=True) + TEXT_SHARE
        if self.level == "free":
            return total
        orders = len(asked.question.targets) if method.targeted else 1
        left = 1 - SHARE if tower.drops_patches else 1.0
        total += (2 * orders + 1) * left + method.work(tower, layers, rows)
        if self.level == "quick":
            return total
        steps = PERTURBATION_STEPS[1:]
        curve = sum(1 - share for share in steps) if tower.drops_patches else len(steps)
        groups = SACO_GROUPS - 1 if tower.drops_patches else SACO_GROUPS
        return total + (2 * orders + 1) * curve + orders * groups

    @classmethod
    def measure(cls, asked: Sequence[Self], subjects: Subjects) -> Sequence[Measured | LegradError]:
        """See :meth:`Measurement.measure`."""
        level = asked[0].level
        perturbations: Sequence[list[Perturbation] | None] = [None] * len(subjects)
        curves: Sequence[list[Curves] | None] = [None] * len(subjects)
        if level != "free":
            perturbations = measure_perturbation(subjects)
        if level == "curves":
            curves = measure_curves(subjects)
        return [
            Measured(
                targets=[
                    TargetTrust(
                        level,
                        agreement,
                        None if perturbation is None else perturbation[row],
                        None if curve is None else curve[row],
                    )
                    for row, agreement in enumerate(rows)
                ]
            )
            for rows, perturbation, curve in zip(
                measure_agreement(subjects), perturbations, curves, strict=True
            )
        ]
