"""Segmentation: maps as masks of the class that the picture shows."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.metrics.segmentation import Counts, above, mean_average_precision
from legrad_engine.evaluation.protocols.base import (
    Figure,
    Protocol,
    Record,
    enlarged,
    fitted,
    mean,
    stretched,
)
from legrad_engine.evaluation.registry import register_protocol
from legrad_engine.evaluation.samples import Annotation
from legrad_engine.evaluation.subject import Batch
from legrad_engine.images.geometry import Geometry

CONVENTIONS = (
    "Maps are interpolated bilinearly to the model's input and stretched to 0 to 1; masks are "
    "resized to it by the nearest pixel.",
    "Foreground are values above 0.5, or above the map's own mean.",
    "Intersections and unions of background and foreground are added up over all pairs of picture "
    "and class; mIoU is the mean of the two, pixel accuracy the share of all pixels.",
    "mAP is the mean over pairs of the average precision of [1 - R, R] against the one-hot mask.",
    "Pixels that the data set ignores do not count.",
)


@register_protocol
class Segmentation(Protocol):
    """The protocol of LeGrad's paper on ImageNet-Segmentation."""

    name = "segmentation"
    title = "Segmentation"
    conventions = CONVENTIONS
    needs = frozenset({"masks"})

    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """See :class:`Protocol`."""
        return [
            {"pairs": overlaps(maps, case.sample.annotations, case.prepared.geometry)}
            for case, maps in zip(batch.cases, batch.maps(method), strict=True)
        ]

    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """See :class:`Protocol`."""
        return figures([pair for record in records for pair in record["pairs"]])


def overlaps(
    maps: NDArray[np.floating], annotations: Sequence[Annotation], geometry: Geometry
) -> list[dict[str, Any]]:
    """Compare each map with the mask of an annotation.

    Args:
        maps: [annotations, rows, columns], raw.
        annotations: of one picture, with masks.
        geometry: of the picture.
    """
    pairs = []
    heatmaps = stretched(enlarged(maps, geometry))
    for heatmap, annotation in zip(heatmaps, annotations, strict=True):
        if annotation.mask is None:
            raise ValueError("an annotation has no mask")
        truth, normalised = fitted(annotation.mask, geometry), heatmap
        if annotation.ignored is None:
            truth, normalised = truth.ravel(), normalised.ravel()
        else:
            counted = ~fitted(annotation.ignored, geometry)
            truth, normalised = truth[counted], normalised[counted]
        # The mean of the whole map, with the pixels that do not count.
        at_mean = above(normalised, float(heatmap.mean()))
        pairs.append(
            {
                "class": annotation.name,
                "half": Counts.of(above(normalised, 0.5), truth).as_tuple(),
                "mean": Counts.of(at_mean, truth).as_tuple(),
                "ap": mean_average_precision(normalised, truth),
            }
        )
    return pairs


def figures(pairs: Sequence[Record]) -> list[Figure]:
    """Compute the figures of pairs from :func:`overlaps`."""
    found = []
    for key, threshold in (("half", "0.5"), ("mean", "mean")):
        total = Counts.total(Counts(*pair[key]) for pair in pairs)
        found += [
            Figure(f"pixel accuracy, threshold {threshold}", total.accuracy),
            Figure(f"mIoU, threshold {threshold}", total.mean_iou),
            Figure(f"foreground IoU, threshold {threshold}", total.foreground_iou),
        ]
    found.append(Figure("mAP", mean(pair["ap"] for pair in pairs)))
    return [*found, Figure("pairs", float(len(pairs)), None, percent=False)]
