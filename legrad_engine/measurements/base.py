"""Interface of a measurement.

A measurement is one file with a frozen dataclass that derives from :class:`Measurement`. Its fields
are its options. It reads the explained pictures of a batch; it changes neither them nor the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from legrad_engine.errors import InvalidOptionError, LegradError
from legrad_engine.explainer import Explainer
from legrad_engine.explanation import Explanation
from legrad_engine.families import Score
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.methods import Heads
from legrad_engine.methods.base import Method
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.targets.templates import Templates
from legrad_engine.trace import Trace


@dataclass(frozen=True, slots=True)
class Asked:
    """The question that a measurement belongs to, before anything is computed.

    Attributes:
        explainer: the model.
        method: the explanation method.
        heads: whether the maps are those of the targets or of the heads.
        layers: indices of the explained blocks.
        score: the explained score.
        question: the targets; their pictures may still be encoded.
    """

    explainer: Explainer
    method: Method[Any]
    heads: Heads
    layers: tuple[int, ...]
    score: Score
    question: Question


@dataclass(frozen=True, slots=True)
class Subjects:
    """B explained pictures of one input size.

    Attributes:
        explainer: the model.
        trace: the trace of all pictures.
        resolved: the targets of each picture.
        questions: the question of each picture, which the targets were resolved from.
        templates: the templates of their texts.
        explanations: the maps of each picture, all finite.
        prepared: each picture as model input; None where the measurement needs no pixels and the
            trace came from a cache.
        images_per_pass: most inputs of one forward pass.
    """

    explainer: Explainer
    trace: Trace
    resolved: Sequence[ResolvedTargets]
    questions: Sequence[Question]
    templates: Templates
    explanations: Sequence[Explanation]
    prepared: Sequence[PreparedImage | None]
    images_per_pass: int

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.resolved)

    def select(self, places: Sequence[int]) -> Self:
        """Return some of the pictures, in ascending order."""
        if len(places) == len(self):
            return self
        return replace(
            self,
            trace=self.trace.select(places),
            resolved=[self.resolved[place] for place in places],
            questions=[self.questions[place] for place in places],
            explanations=[self.explanations[place] for place in places],
            prepared=[self.prepared[place] for place in places],
        )

    @property
    def pictures(self) -> list[PreparedImage]:
        """The pictures as model inputs, for measurements that need pixels.

        Raises:
            ValueError: a picture is missing.
        """
        found = [each for each in self.prepared if each is not None]
        if len(found) != len(self.prepared):
            raise ValueError("the measurement did not say that it needs pixels")
        return found


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of one measurement for one picture: plain dataclasses of Python numbers.

    Attributes:
        image: the result for the picture as a whole, or None.
        targets: one result for each target, or None.
    """

    image: object | None = None
    targets: Sequence[object] | None = None


class Measurement(ABC):
    """One measurement with its options: a frozen dataclass, hashable.

    Attributes:
        name: name of the option that asks for it, for errors.
    """

    name: ClassVar[str]

    @property
    def needs_pixels(self) -> bool:
        """Whether the picture itself is needed, even where its trace is cached."""
        return False

    @property
    def bucket(self) -> Hashable:
        """Equal for measurements that one call of :meth:`measure` can compute together."""
        return self

    def check(self, asked: Asked) -> None:
        """Refuse a question that cannot be measured.

        Raises:
            InvalidOptionError: the model, the method or the targets do not allow it.
        """
        del asked

    @abstractmethod
    def work(self, asked: Asked) -> float:
        """Return the cost for one picture, beside its map, in forward passes of that picture.

        It must be an upper bound that holds whatever is cached.
        """

    @classmethod
    @abstractmethod
    def measure(cls, asked: Sequence[Self], subjects: Subjects) -> Sequence[Measured | LegradError]:
        """Measure a batch. Runs on the worker of the model, without gradients.

        Args:
            asked: the measurement of each picture, all of one bucket.
            subjects: the pictures.

        Returns:
            One result for each picture, or the error of that picture alone.
        """

    def refuse_heads(self, asked: Asked) -> None:
        """Refuse maps of single heads, for measurements of the targets' maps.

        Raises:
            InvalidOptionError: the maps are those of the heads.
        """
        if asked.heads == "each":
            raise InvalidOptionError(
                f"{self.name} is about the maps of targets, but heads='each' asks for those of the "
                "heads: leave one of them out.",
                field=self.name,
            )
