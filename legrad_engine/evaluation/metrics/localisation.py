"""Where a map is high, against a mask or boxes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from legrad_engine.images.geometry import Box

_AROUND = np.ones((3, 3))


def points_inside(heatmap: NDArray[np.floating], mask: NDArray[np.bool_]) -> bool:
    """Play the pointing game: whether the map's highest pixel lies in the mask.

    The first of equal pixels in reading order counts; no tolerance around the mask.

    Args:
        heatmap: [height, width].
        mask: bool [height, width].
    """
    return bool(mask.flat[heatmap.argmax()])


def largest_component_box(normalised: NDArray[np.floating], threshold: float) -> Box | None:
    """Return the box of the largest connected part of a map above a threshold.

    Diagonal neighbours are connected. The first of equally large parts in reading order counts.

    Args:
        normalised: [height, width].
        threshold: exclusive.

    Returns:
        (left, top, right, bottom) in pixels, right and bottom exclusive; None if no pixel exceeds
        the threshold.
    """
    labels, count = ndimage.label(normalised > threshold, structure=_AROUND)
    if not count:
        return None
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    return box_of(labels == largest)


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box around a mask, or None for an empty one."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    rows, columns = found[0]
    return columns.start, rows.start, columns.stop, rows.stop


def box_iou(first: Box, second: Box) -> float:
    """Compute the intersection over union of two boxes; 0 for two empty ones."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    union = _area(first) + _area(second) - shared
    return shared / union if union else 0.0


def best_box_iou(predicted: Box | None, truths: Sequence[Box]) -> float:
    """Compute the highest intersection over union with any true box; 0 without a prediction."""
    if predicted is None:
        return 0.0
    return max((box_iou(predicted, truth) for truth in truths), default=0.0)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def mass_accuracy(heatmap: NDArray[np.floating], mask: NDArray[np.bool_]) -> float | None:
    """Compute the share of a map's total inside a mask (arXiv 2003.07258).

    Negative values count as 0.

    Returns:
        0 to 1; None for a map without a positive value.
    """
    positive = np.clip(heatmap, 0, None).astype(np.float64)
    total = float(positive.sum())
    # The two sums are rounded in different orders.
    return min(1.0, float(positive[mask].sum()) / total) if total > 0 else None


def rank_accuracy(heatmap: NDArray[np.floating], mask: NDArray[np.bool_]) -> float | None:
    """Compute the share of the K highest pixels inside a mask of K pixels (arXiv 2003.07258).

    The first of equal pixels in reading order counts.

    Returns:
        0 to 1; None for an empty mask.
    """
    size = int(mask.sum())
    if not size:
        return None
    highest = np.argsort(-heatmap, axis=None, kind="stable")[:size]
    return float(mask.flat[highest].sum()) / size
