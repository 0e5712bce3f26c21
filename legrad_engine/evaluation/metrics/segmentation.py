"""Maps as segmentations into background and foreground."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.metrics.ranking import average_precision


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of pixels, or of points, by truth and prediction.

    Attributes:
        true_positive: foreground in both.
        false_positive: foreground in the prediction alone.
        false_negative: foreground in the truth alone.
        true_negative: background in both.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    @classmethod
    def of(cls, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Self:
        """Count two arrays of one shape."""
        both, either = int((predicted & truth).sum()), int((predicted | truth).sum())
        return cls(
            both,
            int(predicted.sum()) - both,
            int(truth.sum()) - both,
            truth.size - either,
        )

    @classmethod
    def total(cls, parts: Iterable["Counts"]) -> Self:
        """Add counts up."""
        summed = [0, 0, 0, 0]
        for part in parts:
            for place, value in enumerate(part.as_tuple()):
                summed[place] += value
        return cls(*summed)

    def as_tuple(self) -> tuple[int, int, int, int]:
        """Return the four numbers in the order of the attributes."""
        return (
            self.true_positive,
            self.false_positive,
            self.false_negative,
            self.true_negative,
        )

    @property
    def foreground_iou(self) -> float | None:
        """Intersection over union of the foreground; None if neither array has any."""
        return _share(self.true_positive, self.false_positive + self.false_negative)

    @property
    def background_iou(self) -> float | None:
        """Intersection over union of the background; None if neither array has any."""
        return _share(self.true_negative, self.false_positive + self.false_negative)

    @property
    def mean_iou(self) -> float | None:
        """Mean of the two; a part that neither array has does not count, and None without both."""
        ious = (self.foreground_iou, self.background_iou)
        found = [iou for iou in ious if iou is not None]
        return sum(found) / len(found) if found else None

    @property
    def accuracy(self) -> float | None:
        """Share of pixels where truth and prediction agree; None without pixels."""
        return _share(
            self.true_positive + self.true_negative, self.false_positive + self.false_negative
        )


def _share(inside: int, outside: int) -> float | None:
    return inside / (inside + outside) if inside + outside else None


def above(heatmap: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Predict the foreground where a map exceeds a threshold; equal values are background."""
    found: NDArray[np.bool_] = heatmap > threshold
    return found


def mean_average_precision(normalised: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Compute the average precision of one picture's map over background and foreground.

    The values [1 - R, R] of all pixels are ranked together against the one-hot truth [background,
    foreground], as in the reference code of arXiv 2012.09838. The mAP of a data set is the mean
    over its pictures.

    Args:
        normalised: [pixels], the map R in 0 to 1.
        truth: bool [pixels].
    """
    values = np.concatenate([1 - normalised, normalised])
    return average_precision(values, np.concatenate([~truth, truth])) or 0.0
