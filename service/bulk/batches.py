"""Explanation of prepared pictures in batches, divided where they exceed memory."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, TypeVar

from legrad_engine import Explainer, Explanation, LegradError
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.measurements.base import Measured
from legrad_engine.measurements.batches import explain_and_measure
from legrad_engine.presence import PresenceCalibration
from service.bulk.dividing import in_parts
from service.bulk.questions import Question

_Key = TypeVar("_Key", bound=Hashable)

NOT_FINITE = (
    "The model's numbers are not finite for this picture: its weights are damaged, or too large "
    "for the precision in which it runs."
)


@dataclass(frozen=True)
class Explained:
    """The explanation of a picture.

    Attributes:
        explanation: the explanation.
        measured: each prompt's results of measurements, by their names.
        presence: each prompt's calibrated presence; None for all without a calibration.
    """

    explanation: Explanation
    measured: Sequence[Mapping[str, Any]]
    presence: Sequence[float | None]


class BatchExplainer:
    """Explains prepared pictures with one loaded model and one question."""

    def __init__(
        self,
        explainer: Explainer,
        question: Question,
        calibration: PresenceCalibration | None = None,
    ) -> None:
        """Take a model and a question that the model accepts.

        Args:
            explainer: the model.
            question: the question.
            calibration: tells the presence of the prompts; None to leave it out.
        """
        self._explainer = explainer
        self._question = question
        self._calibration = calibration
        self.layers = explainer.resolve_layers(question.layers, question.method)
        self.score = explainer.resolve_score(question.score, question.method)

    def explain(
        self, prepared: Sequence[tuple[_Key, PreparedImage]]
    ) -> dict[_Key, Explained | str]:
        """Explain pictures by their keys.

        Returns:
            The explanation of each, or an error text for one that exceeds memory even alone or
            whose numbers are not finite.
        """
        ready = sorted(prepared, key=lambda pair: pair[1].geometry.input_size)
        explained: dict[_Key, Explained | str] = {}
        # A batch has one input size; with fit "native" sizes differ.
        for _, group in groupby(ready, key=lambda pair: pair[1].geometry.input_size):
            members = list(group)
            found = in_parts([picture for _, picture in members], self._explain_batch)
            explained |= zip((key for key, _ in members), map(_if_finite, found), strict=True)
        return explained

    def _explain_batch(self, prepared: Sequence[PreparedImage]) -> list[Explained]:
        question = self._question
        if question.heads == "each":
            return self._explain_heads(prepared)
        found = explain_and_measure(
            self._explainer,
            prepared,
            question.targets(self._explainer),
            question.measurements(),
            method=question.method,
            layers=self.layers,
            score=self.score,
        )
        explained = []
        for explanation, results in found:
            if isinstance(results, LegradError):
                raise results
            measured = [
                {name: asdict(targets[index]) for name, targets in _targets_of(results).items()}
                for index in range(len(question.prompts))
            ]
            explained.append(Explained(explanation, measured, self._presence(explanation)))
        return explained

    def _explain_heads(self, prepared: Sequence[PreparedImage]) -> list[Explained]:
        # All measurements are about maps of targets, so a question about heads has none.
        question, explainer = self._question, self._explainer
        trace = explainer.trace(
            prepared, method=question.method, layers=self.layers, score=self.score
        )
        found = explainer.attribute(trace, question.targets(explainer), heads=question.heads)
        return [Explained(each, [{}], self._presence(each)) for each in found]

    def _presence(self, explanation: Explanation) -> list[float | None]:
        """Return the presence of each prompt, in manifests and in the rows of bulk jobs.

        Similarities of another input than the usual one are not those of the calibration.
        """
        similarities = explanation.similarities.tolist()
        usual = self._explainer.input_rules().match(explanation.geometry)
        if self._calibration is None or not usual:
            return [None] * len(similarities)
        return [self._calibration.probability(each) for each in similarities]


def _if_finite(explained: Explained | str) -> Explained | str:
    if isinstance(explained, str) or explained.explanation.is_finite:
        return explained
    return NOT_FINITE


def _targets_of(results: Mapping[str, Measured]) -> dict[str, Sequence[Any]]:
    """Return the results for each target, by the names of the measurements."""
    return {name: each.targets for name, each in results.items() if each.targets is not None}
