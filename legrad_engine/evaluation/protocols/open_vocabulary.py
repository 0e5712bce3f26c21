"""Open vocabulary: maps at points with a known answer, over thousands of classes."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.metrics.segmentation import Counts, above
from legrad_engine.evaluation.protocols.base import (
    Figure,
    Protocol,
    Record,
    enlarged,
    mean,
    stretched,
)
from legrad_engine.evaluation.registry import register_protocol
from legrad_engine.evaluation.samples import Points
from legrad_engine.evaluation.subject import Batch


@register_protocol
class OpenVocabulary(Protocol):
    """The protocol of LeGrad's paper on OpenImages V7, in both readings of p-mIoU."""

    name = "open-vocabulary"
    title = "Open vocabulary"
    conventions = (
        "Each class with a positive point in a picture is a prompt.",
        "Maps are interpolated bilinearly to the model's input and stretched to 0 to 1; a point "
        "is foreground if the pixel that it lies in is above 0.5.",
        "Points are counted by class over the data set. p-mIoU, foreground: TP / (TP + FP + FN), "
        "averaged over classes. p-mIoU, both: the mean of that and TN / (TN + FP + FN), averaged "
        "over classes. The paper does not say which of the two it reports.",
    )
    needs = frozenset({"points"})

    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """See :class:`Protocol`."""
        records = []
        for case, maps in zip(batch.cases, batch.maps(method), strict=True):
            heatmaps = stretched(enlarged(maps, case.prepared.geometry))
            pairs = [
                {"class": each.index, "points": _count(heatmap, each.points).as_tuple()}
                for heatmap, each in zip(heatmaps, case.sample.annotations, strict=True)
                if each.points is not None
            ]
            records.append({"pairs": pairs})
        return records

    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """See :class:`Protocol`."""
        by_class: dict[int, list[Counts]] = {}
        for record in records:
            for pair in record["pairs"]:
                by_class.setdefault(pair["class"], []).append(Counts(*pair["points"]))
        totals = [Counts.total(parts) for parts in by_class.values()]
        return [
            Figure("p-mIoU, foreground", mean(each.foreground_iou for each in totals)),
            Figure("p-mIoU, both", mean(each.mean_iou for each in totals)),
            Figure("point accuracy", Counts.total(totals).accuracy),
            Figure("classes", float(len(totals)), None, percent=False),
        ]


def _count(normalised: NDArray[np.float32], points: Points) -> Counts:
    found = [above(_at(normalised, each), 0.5) for each in (points.positive, points.negative)]
    truth = np.repeat([True, False], [len(each) for each in found])
    return Counts.of(np.concatenate(found), truth)


def _at(normalised: NDArray[np.float32], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the values of the pixels in which points [n, 2] of 0 to 1 lie."""
    height, width = normalised.shape
    columns = np.minimum((points[:, 0] * width).astype(int), width - 1)
    rows = np.minimum((points[:, 1] * height).astype(int), height - 1)
    found: NDArray[np.float32] = normalised[rows, columns]
    return found
