"""Maps as segmentations, on tables counted by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, jaccard_score

from legrad_engine.evaluation.metrics.segmentation import Counts, above, mean_average_precision

Masks = hnp.arrays(np.bool_, 24)


def test_counts_of_a_small_table_give_the_figures_counted_by_hand() -> None:
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    predicted = np.array([1, 0, 0, 1, 0, 0, 0, 0], bool)
    counts = Counts.of(predicted, truth)
    assert counts == Counts(1, 1, 2, 4)
    assert counts.foreground_iou == 1 / 4
    assert counts.background_iou == 4 / 7
    assert counts.mean_iou == pytest.approx((1 / 4 + 4 / 7) / 2)
    assert counts.accuracy == 5 / 8


def test_the_data_set_is_accumulated_before_the_ratio() -> None:
    """A mean of the pictures' own figures would be (1 + 0) / 2."""
    small = Counts.of(np.array([True]), np.array([True]))
    large = Counts.of(np.zeros(3, bool), np.ones(3, bool))
    assert Counts.total([small, large]).foreground_iou == 1 / 4


def test_a_part_that_neither_array_has_is_undefined() -> None:
    everywhere = Counts.of(np.ones(4, bool), np.ones(4, bool))
    assert everywhere.background_iou is None
    assert everywhere.mean_iou == 1
    assert Counts().mean_iou is None
    assert Counts().accuracy is None


def test_a_value_at_the_threshold_is_background() -> None:
    assert above(np.array([0.4, 0.5, 0.6]), 0.5).tolist() == [False, False, True]


@given(Masks, Masks)
def test_ious_are_those_of_scikit_learn(predicted: np.ndarray, truth: np.ndarray) -> None:
    counts = Counts.of(predicted, truth)
    if (predicted | truth).any():
        assert counts.foreground_iou == pytest.approx(jaccard_score(truth, predicted))
    if not (predicted & truth).all():
        assert counts.background_iou == pytest.approx(jaccard_score(~truth, ~predicted))


@given(Masks, hnp.arrays(np.float64, 24, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])))
def test_map_is_the_average_precision_of_both_classes_together(
    truth: np.ndarray, normalised: np.ndarray
) -> None:
    scores = np.concatenate([1 - normalised, normalised])
    expected = average_precision_score(np.concatenate([~truth, truth]), scores)
    assert mean_average_precision(normalised, truth) == pytest.approx(expected)


def test_a_map_equal_to_its_mask_is_perfect_and_its_opposite_is_not() -> None:
    truth = np.array([1, 1, 0, 0, 0, 0], bool)
    assert mean_average_precision(truth.astype(float), truth) == 1
    assert mean_average_precision(1 - truth.astype(float), truth) == 0.5
