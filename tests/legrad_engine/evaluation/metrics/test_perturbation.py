"""Orders of pixels and areas under curves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from legrad_engine.evaluation.metrics.perturbation import PERTURBATION_STEPS, area, first, order_of


def test_the_first_share_are_the_highest_pixels() -> None:
    heatmap = np.array([[0.1, 0.9], [0.5, 0.7], [0.2, 0.3]])
    assert order_of(heatmap).tolist() == [1, 3, 2, 5, 4, 0]
    assert first(order_of(heatmap), 0.5, (3, 2)).tolist() == [
        [False, True],
        [True, True],
        [False, False],
    ]


def test_shares_are_whole_pixels_despite_floating_point() -> None:
    order = np.arange(10)
    assert [first(order, step / 10, (2, 5)).sum() for step in range(11)] == list(range(11))


@given(hnp.arrays(np.float64, (4, 5), elements=st.floats(-1, 1)), st.floats(0, 1))
def test_the_order_is_that_of_any_rising_scale_and_all_pixels_are_in_it(
    heatmap: np.ndarray, share: float
) -> None:
    order = order_of(heatmap)
    assert sorted(order.tolist()) == list(range(20))
    assert order_of(2 * heatmap).tolist() == order.tolist()
    chosen = first(order, share, (4, 5))
    if chosen.any() and not chosen.all():
        assert heatmap[chosen].min() >= heatmap[~chosen].max()


def test_a_model_that_is_always_right_has_the_area_of_nine_tenths() -> None:
    assert list(PERTURBATION_STEPS) == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert area(PERTURBATION_STEPS, [1] * 10) == pytest.approx(0.9)
    # Right until half the pixels are gone: 0.5 and half a step.
    assert area(PERTURBATION_STEPS, [1] * 6 + [0] * 4) == pytest.approx(0.55)
    assert area([0, 1], [0, 1]) == 0.5
