"""Localisation: where maps are high."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.metrics.localisation import (
    best_box_iou,
    box_of,
    largest_component_box,
    mass_accuracy,
    points_inside,
    rank_accuracy,
)
from legrad_engine.evaluation.protocols.base import (
    Figure,
    Protocol,
    Record,
    enlarged,
    fitted,
    mean,
    mean_by_class,
    stretched,
)
from legrad_engine.evaluation.registry import register_protocol
from legrad_engine.evaluation.samples import Annotation
from legrad_engine.evaluation.subject import Batch
from legrad_engine.images.geometry import Box, Geometry


@register_protocol
class Localisation(Protocol):
    """Pointing game, box of the largest component, mass and rank accuracy."""

    name = "localisation"
    title = "Localisation"
    conventions = (
        "Maps are interpolated bilinearly to the model's input; masks are resized to it by the "
        "nearest pixel. A class whose mask has no pixel left there does not count.",
        "Pointing: the highest pixel lies in the mask, or in a box where there is no mask; no "
        "tolerance.",
        "Box: of the largest connected part above 0.5 of the stretched map, against the best of "
        "the data set's boxes, or the box around the mask where there are none; the accuracy is "
        "the share of pairs with an intersection over union of at least 0.5.",
        "Mass accuracy: the share of the positive raw map in the mask; rank accuracy: the share of "
        "the K highest pixels in a mask of K pixels.",
        "Pixels that the data set ignores count for none of them but the box.",
    )
    needs = frozenset({"masks", "boxes"})

    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """See :class:`Protocol`."""
        records = []
        for case, maps in zip(batch.cases, batch.maps(method), strict=True):
            geometry = case.prepared.geometry
            heatmaps = enlarged(maps, geometry)
            pairs = [
                _measure(heatmap, normalised, annotation, geometry)
                for heatmap, normalised, annotation in zip(
                    heatmaps, stretched(heatmaps), case.sample.annotations, strict=True
                )
            ]
            records.append({"pairs": [pair for pair in pairs if pair is not None]})
        return records

    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """See :class:`Protocol`."""
        pairs = [pair for record in records for pair in record["pairs"]]
        classes = [pair["class"] for pair in pairs]
        hits = [float(pair["hit"]) for pair in pairs]
        ious = [pair["box_iou"] for pair in pairs]
        return [
            Figure("pointing", mean(hits)),
            Figure("pointing, mean of classes", mean_by_class(classes, hits)),
            Figure("box IoU", mean(ious)),
            Figure("box accuracy at IoU 0.5", mean(float(iou >= 0.5) for iou in ious)),
            Figure("mass accuracy", mean(pair["mass"] for pair in pairs)),
            Figure("rank accuracy", mean(pair["rank"] for pair in pairs)),
            Figure("pairs", float(len(pairs)), None, percent=False),
        ]


def _measure(
    heatmap: NDArray[np.float32],
    normalised: NDArray[np.float32],
    annotation: Annotation,
    geometry: Geometry,
) -> dict[str, Any] | None:
    """Measure one map; return None if nothing of the class is left at the size of the input."""
    boxes = [_in_content(box, geometry) for box in annotation.boxes]
    if annotation.mask is not None:
        mask = fitted(annotation.mask, geometry)
        around = box_of(mask)
        boxes = boxes or ([around] if around is not None else [])
    else:
        mask = _inside(boxes, (normalised.shape[0], normalised.shape[1]))
    if not mask.any():
        return None
    with_mask = annotation.mask is not None
    counted = heatmap
    if annotation.ignored is not None:
        # Never the highest, and no part of the total.
        counted = np.where(fitted(annotation.ignored, geometry), -np.inf, heatmap)
    return {
        "class": annotation.name,
        "hit": points_inside(counted, mask),
        "box_iou": best_box_iou(largest_component_box(normalised, 0.5), boxes),
        "mass": mass_accuracy(counted, mask) if with_mask else None,
        "rank": rank_accuracy(counted, mask) if with_mask else None,
    }


def _in_content(box: Box, geometry: Geometry) -> Box:
    """Map a box from pixels of the picture to pixels of its box in the input."""
    x, y = geometry.content_box[:2]
    left, top, right, bottom = geometry.image_to_input(box)
    return left - x, top - y, right - x, bottom - y


def _inside(boxes: Iterable[Box], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the pixels whose centre lies in one of the boxes."""
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    mask = np.zeros(shape, np.bool_)
    for left, top, right, bottom in boxes:
        inside = (rows >= top) & (rows < bottom)
        mask |= inside[:, None] & ((columns >= left) & (columns < right))[None, :]
    return mask
