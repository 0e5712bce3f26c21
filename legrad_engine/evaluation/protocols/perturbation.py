"""Perturbation: accuracy while the pixels that a map ranks highest, or lowest, turn black."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.metrics.perturbation import (
    PERTURBATION_STEPS,
    area,
    first,
    order_of,
)
from legrad_engine.evaluation.protocols.base import (
    Better,
    Figure,
    Protocol,
    Record,
    enlarged,
    mean,
)
from legrad_engine.evaluation.registry import register_protocol
from legrad_engine.evaluation.subject import Batch
from legrad_engine.images.inputs import PreparedImage

_CLASSES = ("predicted", "target")
_TESTS: tuple[tuple[str, Better], ...] = (("positive", "lower"), ("negative", "higher"))


@register_protocol
class Perturbation(Protocol):
    """The protocol of LeGrad's paper on ImageNet's validation set."""

    name = "perturbation"
    title = "Perturbation"
    conventions = (
        "Pixels of the model's input are ranked by the bilinearly interpolated map; the first k of "
        "them, k = 0.1 to 0.9, are set to 0 in [0, 1] space, before normalisation.",
        "Positive: highest values first, lower is better. Negative: the map is negated, higher is "
        "better.",
        "Accuracy is top-1 among the classes of the data set, against the true class. Predicted "
        "and target say whether the map is of the class that the model predicts for the whole "
        "picture or of the true class, computed without other targets.",
        "AUC is the trapezoid over 0, 0.1 to 0.9, point 0 included: its largest value is 0.9 times "
        "the accuracy.",
    )
    needs = frozenset({"class"})
    compares_classes = True

    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """See :class:`Protocol`."""
        subject, cases = batch.subject, batch.cases
        truths = [{each.index for each in case.sample.annotations} for case in cases]
        predicted = batch.once(
            (self.name, "predicted"),
            lambda: _top(subject.class_scores([case.prepared for case in cases])),
        )
        # The true class of a picture with several is the first one.
        wanted = [
            [guess, case.sample.annotations[0].index]
            for guess, case in zip(predicted, cases, strict=True)
        ]
        # Each class by itself: a map may depend on the other targets of its picture.
        of_classes = [
            batch.maps_of([[pair[place]] for pair in wanted], method)
            for place in range(len(_CLASSES))
        ]
        changed: list[PreparedImage] = []
        for case, pair, *of_pair in zip(cases, wanted, *of_classes, strict=True):
            for maps in of_pair[: len(set(pair))]:
                (heatmap,) = enlarged(maps, case.prepared.geometry)
                changed += _perturbed(case.prepared, heatmap)
        guesses = iter(_top(subject.class_scores(changed)))
        steps = len(PERTURBATION_STEPS) - 1
        records = []
        for truth, guess, pair in zip(truths, predicted, wanted, strict=True):
            record: dict[str, Any] = {"correct": guess in truth}
            for place, name in enumerate(_CLASSES):
                if place and pair[0] == pair[1]:
                    record[name] = record[_CLASSES[0]]
                else:
                    record[name] = {
                        test: [each in truth for each in islice(guesses, steps)]
                        for test, _ in _TESTS
                    }
            records.append(record)
        return records

    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """See :class:`Protocol`."""
        kept = list(records)
        accuracy = mean(float(record["correct"]) for record in kept)
        figures = [Figure("accuracy", accuracy)]
        for name in _CLASSES:
            for test, better in _TESTS:
                value = None
                if accuracy is not None:
                    curve = np.mean([record[name][test] for record in kept], axis=0)
                    value = area(PERTURBATION_STEPS, [accuracy, *curve.tolist()])
                figures.append(Figure(f"{test} AUC, {name} class", value, better))
        return figures


def _top(scores: NDArray[np.floating]) -> list[int]:
    found: list[int] = scores.argmax(1).tolist()
    return found


def _perturbed(prepared: PreparedImage, heatmap: NDArray[np.float32]) -> Sequence[PreparedImage]:
    """Turn shares of a picture black: in the order of the map, then of the negated map."""
    shape = (heatmap.shape[0], heatmap.shape[1])
    changed = []
    for order in (order_of(heatmap), order_of(-heatmap)):
        for share in PERTURBATION_STEPS[1:]:
            pixels = prepared.pixels.copy()
            pixels[first(order, share, shape)] = 0
            changed.append(PreparedImage(pixels, prepared.geometry))
    return changed
