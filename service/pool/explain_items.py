"""Items of the worker: a picture with its question, and the answer."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from legrad_engine import Explanation
from legrad_engine.families import Score
from legrad_engine.measurements.base import Measured, Measurement
from legrad_engine.methods import Heads
from legrad_engine.targets.questions import Question
from legrad_engine.targets.templates import Templates
from service.pool.traced_picture import TracedPicture
from service.telemetry.tracing import SpanLink


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """One picture and the question about it, ready for the worker.

    Attributes:
        picture: decoded, or with its trace; equal pictures share one object and one forward pass.
        question: the checked targets, with their pictures prepared.
        method: name of the explanation method.
        heads: whether the maps are those of the targets or of the heads.
        layers: resolved block indices.
        score: the explained score.
        templates: prompt templates.
        cache: whether embeddings of its texts are looked up and kept.
        link: span of the request.
        measurements: the wanted measurements beside the maps.
    """

    picture: TracedPicture
    question: Question
    method: str
    heads: Heads
    layers: tuple[int, ...]
    score: Score
    templates: Templates
    cache: bool
    link: SpanLink | None
    measurements: tuple[Measurement, ...] = ()

    @property
    def bucket(self) -> tuple[Hashable, ...]:
        """The key of items that can be computed in one batch."""
        geometry = self.picture.geometry
        input_size = None if geometry is None else geometry.input_size
        return (
            input_size,
            self.method,
            self.heads,
            self.layers,
            self.score,
            self.templates,
            *((type(each), each.bucket) for each in self.measurements),
        )


@dataclass(frozen=True, slots=True)
class Explained:
    """An item's explanation.

    Attributes:
        explanation: the maps.
        cached: whether the item used the forward pass of another one.
        measured: the results of its measurements, by their names.
    """

    explanation: Explanation
    cached: bool
    measured: Mapping[str, Measured]
