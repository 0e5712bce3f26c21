"""The measurement `layers_report`: where in the model the decision for each target forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidOptionError, LegradError
from legrad_engine.layers_report import CosineTerms, LayersReport, report_layers
from legrad_engine.measurements.base import Asked, Measured, Measurement, Subjects

# Forward passes that the model's head takes for all blocks together: an attentional pooler has keys
# and values of every token, a sixth of a block's work, any other head little more than a norm.
_POOLER_SHARE = 0.2
_HEAD_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class DirectEffects:
    """The similarity of one target as a sum over the parts of the model.

    Attributes:
        blocks: the direct effect of each block: its heads, its attention's biases and its MLP.
        heads: for each block, the direct effect of each attention head.
        attention_biases: for each block, that of the biases behind its attention.
        mlps: for each block, that of its MLP.
        input: that of the input of the first block.
        output_biases: that of the biases of the last norm and projection.
        sum: of ``blocks``, ``input`` and ``output_biases``.
        gap: ``sum`` less the served similarity, 0 but for rounding.
    """

    blocks: list[float]
    heads: list[list[float]]
    attention_biases: list[float]
    mlps: list[float]
    input: float
    output_biases: float
    sum: float
    gap: float


@dataclass(frozen=True, slots=True)
class TargetLayers:
    """One target after every block.

    Attributes:
        similarities: after each block, the cosine that the model's own last norm and head give.
        ranks: after each block, 1 for the most similar target; equal ones share their best rank.
        direct_effects: the similarity as a sum; None for methods other than ``textspan``.
    """

    similarities: list[float]
    ranks: list[int]
    direct_effects: DirectEffects | None


@dataclass(frozen=True, slots=True)
class LayersReportMeasurement(Measurement):
    """The report of the layers.

    Attributes:
        terms: whether the similarity is told as a sum too, for the method ``textspan``.
    """

    terms: bool
    name: ClassVar[str] = "layers_report"

    @property
    def needs_pixels(self) -> bool:
        """See :attr:`Measurement.needs_pixels`: a trace keeps no tokens."""
        return True

    def check(self, asked: Asked) -> None:
        """See :meth:`Measurement.check`."""
        if asked.heads == "each":
            raise InvalidOptionError(
                "layers_report has numbers of each target, but heads='each' answers for each head: "
                "leave one of them out.",
                field=self.name,
            )

    def work(self, asked: Asked) -> float:
        """See :meth:`Measurement.work`: a forward pass, and the head after every block."""
        tower = asked.explainer.tower
        pooled = tower.served_head().own_attention is not None
        heads = _POOLER_SHARE if pooled else _HEAD_SHARE
        if not self.terms:
            return 1 + heads
        return heads + asked.method.work(tower, tuple(range(tower.depth)), asked.question.rows)

    @classmethod
    def measure(cls, asked: Sequence[Self], subjects: Subjects) -> Sequence[Measured | LegradError]:
        """See :meth:`Measurement.measure`."""
        pictures, most = subjects.pictures, subjects.images_per_pass
        reports = (
            report
            for first in range(0, len(pictures), most)
            for report in report_layers(
                subjects.explainer,
                pictures[first : first + most],
                subjects.resolved[first : first + most],
                terms=asked[0].terms,
            )
        )
        return [
            Measured(targets=_targets(report, explanation.similarities))
            for report, explanation in zip(reports, subjects.explanations, strict=True)
        ]


def _targets(report: LayersReport, served: NDArray[np.float32]) -> list[TargetLayers]:
    """Combine the report of one picture with its served similarities ``[P]``."""
    similarities, ranks = report.similarities.tolist(), report.ranks.tolist()
    if report.terms is None:
        effects: list[DirectEffects | None] = [None] * len(similarities)
    else:
        effects = [*_direct_effects(report.terms, served)]
    return [TargetLayers(*each) for each in zip(similarities, ranks, effects, strict=True)]


def _direct_effects(terms: CosineTerms, served: NDArray[np.float32]) -> list[DirectEffects]:
    totals = terms.total
    columns = (
        terms.blocks,
        terms.patches + terms.prefix,
        terms.biases,
        terms.mlps,
        terms.input,
        terms.head,
        totals,
        totals - served,
    )
    return [
        DirectEffects(*each) for each in zip(*(column.tolist() for column in columns), strict=True)
    ]
