"""Rankings against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from legrad_engine.evaluation.metrics.ranking import auroc, average_precision

# Few values, so that many are equal.
Values = st.integers(1, 20).flatmap(
    lambda size: hnp.arrays(np.float64, size, elements=st.integers(-3, 3).map(float))
)


@given(Values, Values)
def test_auroc_is_that_of_scikit_learn(right: np.ndarray, wrong: np.ndarray) -> None:
    truth = [1] * len(right) + [0] * len(wrong)
    expected = roc_auc_score(truth, np.concatenate([right, wrong]))
    assert auroc(right, wrong) == pytest.approx(expected)


@given(Values, Values)
def test_auroc_does_not_change_with_the_scale_and_turns_with_the_sides(
    right: np.ndarray, wrong: np.ndarray
) -> None:
    value = auroc(right, wrong)
    assert value is not None
    assert auroc(np.exp(right), np.exp(wrong)) == pytest.approx(value)
    assert auroc(wrong, right) == pytest.approx(1 - value)


@given(Values, st.data())
def test_average_precision_is_that_of_scikit_learn(values: np.ndarray, data: st.DataObject) -> None:
    truth = data.draw(hnp.arrays(np.bool_, len(values)))
    if not truth.any():
        assert average_precision(values, truth) is None
        return
    expected = average_precision_score(truth, values)
    assert average_precision(values, truth) == pytest.approx(expected)


def test_without_an_element_on_both_sides_auroc_is_undefined() -> None:
    assert auroc(np.array([1.0]), np.array([])) is None
