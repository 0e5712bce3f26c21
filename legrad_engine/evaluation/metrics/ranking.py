"""Measures of a ranking against a binary truth."""

import numpy as np
from numpy.typing import NDArray


def average_precision(values: NDArray[np.floating], truth: NDArray[np.bool_]) -> float | None:
    """Compute the area under precision and recall as a sum of steps, not interpolated.

    Equal values share one threshold, as in scikit-learn's ``average_precision_score``.

    Args:
        values: [n], higher for what is predicted.
        truth: bool [n].

    Returns:
        0 to 1; None without a true element.
    """
    positives = int(truth.sum())
    if not positives:
        return None
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    found = np.cumsum(truth[order])[last]
    gained = np.diff(found, prepend=0) / positives
    return float((gained * found / (last + 1)).sum())


def average_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rank values, 1 for the lowest; equal ones share the mean of their ranks.

    Args:
        values: [n].
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def spearman(one: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
    """Compute Spearman's rank correlation, as ``scipy.stats.spearmanr`` does.

    Args:
        one: of any shape.
        other: of the same shape.

    Returns:
        -1 to 1; None if all values of one of them are equal.
    """
    first, second = (average_ranks(each.ravel()) for each in (one, other))
    first, second = first - first.mean(), second - second.mean()
    length = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / length if length else None


def auroc(right: NDArray[np.floating], wrong: NDArray[np.floating]) -> float | None:
    """Compute the area under the ROC curve: the chance that a right value exceeds a wrong one.

    Equal values count a half.

    Args:
        right: [n], values that should be higher.
        wrong: [m], values that should be lower.

    Returns:
        0 to 1; None if either is empty.
    """
    if not len(right) or not len(wrong):
        return None
    ranks = average_ranks(np.concatenate([right, wrong]))[: len(right)]
    smaller = ranks.sum() - len(right) * (len(right) + 1) / 2
    return float(smaller / (len(right) * len(wrong)))
