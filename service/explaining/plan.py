"""Plan of a command: its model, its resolved options, and its cost."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from legrad_engine.explainer import Explainer
from legrad_engine.families import Score
from legrad_engine.images.geometry import Geometry
from legrad_engine.images.geometry import plan as plan_geometry
from legrad_engine.measurements.base import Asked, Measurement
from legrad_engine.methods.base import Method
from legrad_engine.targets.resolution import TextCount
from service.batching import ItemTooLargeError
from service.errors import LimitExceededError
from service.explaining.command import ExplainCommand, ExplainInputs, naming_fields
from service.explaining.measurements.registry import measurements_of, options
from service.pool.served_model import ServedModel
from service.pool.traced_picture import TracedPicture


@dataclass(frozen=True, slots=True)
class Plan:
    """A command with its model and resolved options.

    Attributes:
        command: the command.
        served: the model, held by the request.
        method: the explanation method.
        layers: indices of the explained blocks.
        score: the explained score.
        asked: the question, for measurements.
        measurements: the wanted measurements beside the maps.
        measured: cost of the measurements of one picture, in forward passes of it.
        usual: the geometry of a square picture. Other pictures have as many patches, or fewer at
            their native aspect ratio.
    """

    command: ExplainCommand
    served: ServedModel
    method: Method[Any]
    layers: tuple[int, ...]
    score: Score
    asked: Asked
    measurements: tuple[Measurement, ...]
    measured: float
    usual: Geometry

    @classmethod
    def of(cls, command: ExplainCommand, served: ServedModel) -> "Plan":
        """Resolve the options of a command for a model.

        Raises:
            InvalidOptionError: the model does not support an option.
        """
        explainer, chosen = served.explainer, command.inputs.options
        question = command.inputs.question
        measurements = measurements_of(command.inputs)
        with naming_measurements():
            method = explainer.method(chosen.method)
            method.check(
                chosen.heads, len(question.targets), negatives=question.negatives is not None
            )
            layers = method.layers(explainer.tower, chosen.layers)
            score = method.score(explainer.tower, chosen.score)
            asked = Asked(explainer, method, chosen.heads, layers, score, question)
            for each in measurements:
                each.check(asked)
            return cls(
                command,
                served,
                method,
                layers,
                score,
                asked,
                measurements,
                sum(each.work(asked) for each in measurements),
                plan_geometry(
                    explainer.own_size,
                    size=chosen.size or explainer.own_size,
                    patch_size=explainer.tower.patch_size,
                    fit="squash",
                ),
            )

    @property
    def inputs(self) -> ExplainInputs:
        """The content of the request."""
        return self.command.inputs

    @property
    def explainer(self) -> Explainer:
        """The model."""
        return self.served.explainer

    @property
    def drawn_maps(self) -> int:
        """Number of maps to draw for each picture."""
        if self.inputs.options.heads == "each":
            return self.explainer.head_count
        return len(self.inputs.question.targets) if self.method.targeted else 1

    def count_texts(self, *, cache: bool) -> TextCount:
        """Count the texts of the question.

        Args:
            cache: whether embeddings in the cache, which all callers share, are used.
        """
        with naming_fields():
            return self.explainer.resolver.count_texts(
                self.inputs.question, self.inputs.templates, cache=cache
            )

    def estimate(self, pictures: Sequence[TracedPicture | None], texts: TextCount) -> float:
        """Estimate the cost of the command before decoding.

        Args:
            pictures: the shared pictures; None for a picture that is not fetched yet.
            texts: number of texts to embed.

        Returns:
            The cost in forward passes at the model's own size.
        """
        costs = (
            self._picture_cost(self.usual, traced=False)
            if picture is None
            else self.picture_cost(picture, picture.geometry or self.usual)
            for picture in pictures
        )
        return sum(costs) + self.served.target_cost(self.inputs.question, texts)

    def uncached_cost(self) -> float:
        """Return the cost of the command for square pictures if nothing is cached.

        No estimate of it is higher. Limits on one request and on a key go by this cost, so that
        they do not show which pictures and texts are cached.
        """
        return self.estimate([None] * len(self.inputs.images), self.count_texts(cache=False))

    def picture_cost(self, picture: TracedPicture, geometry: Geometry) -> float:
        """Return the cost of one picture, without the embeddings of the targets.

        The cost includes the forward pass even if another request is about to make the trace: if
        that request fails, this one makes it.
        """
        return self._picture_cost(geometry, traced=picture.trace is not None)

    def _picture_cost(self, geometry: Geometry, *, traced: bool) -> float:
        rows = self.inputs.question.rows
        return self.served.cost(
            geometry, self.method, self.layers, rows, traced=traced, measured=self.measured
        )


def naming_measurements() -> contextlib.AbstractContextManager[None]:
    """Replace the names of options and measurements by the request's, in errors raised inside."""
    return naming_fields(**{name: each.field for name, each in options().items()})


@contextlib.contextmanager
def naming_costly_measurements(plan: Plan) -> Iterator[None]:
    """Tell a caller whose measurements exceed the queue how to ask for less.

    Raises:
        LimitExceededError: the command is more work than the queue holds.
    """
    try:
        yield
    except ItemTooLargeError as error:
        if not plan.measurements:
            raise
        costliest = max(plan.measurements, key=lambda each: each.work(plan.asked))
        option = options()[costliest.name]
        raise LimitExceededError(
            f"{option.field}: {error} Measurements are {plan.measured:.3g} of it for each image: "
            f"{option.cheaper}.",
            field=option.field,
        ) from error
