"""The measurement `words`: the contribution of each word of the text targets that ask for them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from legrad_engine.errors import LegradError
from legrad_engine.measurements.base import Asked, Measured, Measurement, Subjects
from legrad_engine.targets.kinds import TextTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.text import TEXT_SHARE
from legrad_engine.words.reader import Word


@dataclass(frozen=True, slots=True)
class TextWords:
    """The words of one text of a target.

    Attributes:
        text: the text, as it was typed.
        words: its words, in order.
        rest: the contribution of all other tokens.
    """

    text: str
    words: tuple[Word, ...]
    rest: float


@dataclass(frozen=True, slots=True)
class Words(Measurement):
    """Contributions of words.

    Attributes:
        texts: number of texts, each with every template, that are read.
    """

    texts: int
    name: ClassVar[str] = "words"

    @property
    def bucket(self) -> Hashable:
        """See :attr:`Measurement.bucket`: texts of any number are read together."""
        return type(self)

    def check(self, asked: Asked) -> None:
        """See :meth:`Measurement.check`."""
        self.refuse_heads(asked)

    def work(self, asked: Asked) -> float:
        """See :meth:`Measurement.work`."""
        del asked
        # Its forward pass, and the walk back from its end.
        return 2 * TEXT_SHARE * self.texts

    @classmethod
    def measure(cls, asked: Sequence[Self], subjects: Subjects) -> Sequence[Measured | LegradError]:
        """See :meth:`Measurement.measure`; pictures with one question are read together."""
        del asked
        of_question: dict[int, list[int]] = {}
        for place, question in enumerate(subjects.questions):
            of_question.setdefault(id(question), []).append(place)
        found: dict[int, Measured] = {}
        for places in of_question.values():
            question = subjects.questions[places[0]]
            images = subjects.trace.embeddings[torch.tensor(places, device=subjects.trace.device)]
            found |= zip(places, _measure(question, images, subjects), strict=True)
        return [found[place] for place in range(len(subjects))]


def texts_with_words(question: Question) -> list[str]:
    """Return the distinct texts whose words are asked for, in order."""
    asked = (each for each in question.targets if isinstance(each, TextTarget) and each.words)
    return list(dict.fromkeys(text for target in asked for text in target.texts))


def _measure(question: Question, images: torch.Tensor, subjects: Subjects) -> list[Measured]:
    texts = texts_with_words(question)
    read = subjects.explainer.text.words.read(texts, subjects.templates, images)
    of_text = dict(zip(texts, read, strict=True))
    return [
        Measured(
            targets=[
                [
                    TextWords(text, of_text[text][image].words, of_text[text][image].rest)
                    for text in target.texts
                ]
                if isinstance(target, TextTarget) and target.words
                else None
                for target in question.targets
            ]
        )
        for image in range(len(images))
    ]
