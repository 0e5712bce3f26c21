"""Localisation on maps small enough to count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from legrad_engine.evaluation.metrics.localisation import (
    best_box_iou,
    box_iou,
    box_of,
    largest_component_box,
    mass_accuracy,
    points_inside,
    rank_accuracy,
)

MAP = np.array([[9, 1, 0, 0], [1, 0, 0, 6], [0, 0, 7, 6]], float)
MASK = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]], bool)
Maps = hnp.arrays(np.float64, (3, 4), elements=st.floats(-2, 2))
Masks = hnp.arrays(np.bool_, (3, 4))


def test_the_peak_decides_the_pointing_game() -> None:
    assert not points_inside(MAP, MASK)
    assert points_inside(np.where(MAP == 9, 0, MAP), MASK)


def test_the_largest_component_includes_diagonal_neighbours() -> None:
    normalised = MAP / 9
    assert largest_component_box(normalised, 0.5) == (2, 1, 4, 3)
    assert largest_component_box(normalised, 0.9) == (0, 0, 1, 1)
    assert largest_component_box(normalised, 1.0) is None


def test_boxes_are_compared_by_intersection_over_union() -> None:
    assert box_of(MASK) == (2, 1, 4, 3)
    assert box_of(np.zeros((3, 4), bool)) is None
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert best_box_iou((0, 0, 2, 2), [(5, 5, 6, 6), (0, 0, 2, 1)]) == 0.5
    assert best_box_iou(None, [(0, 0, 1, 1)]) == 0


def test_mass_and_rank_accuracy_counted_by_hand() -> None:
    assert mass_accuracy(MAP, MASK) == pytest.approx(19 / 30)
    assert mass_accuracy(MAP - 1, MASK) == pytest.approx(16 / 24)
    assert rank_accuracy(MAP, MASK) == pytest.approx(2 / 3)
    assert mass_accuracy(-MAP, MASK) is None
    assert rank_accuracy(MAP, np.zeros((3, 4), bool)) is None


def test_a_share_that_is_rounded_up_is_1() -> None:
    heatmap = np.array([[0, 1, 0, 0], [0, 0.5, 0, 0], [0.003, 0, 0, 0]])
    mask = np.ones((3, 4), bool)
    mask[0, 0] = False
    assert mass_accuracy(heatmap, mask) == 1


@given(Maps, Masks)
def test_shares_are_within_0_and_1_and_add_up_with_the_rest(
    heatmap: np.ndarray, mask: np.ndarray
) -> None:
    inside, outside = mass_accuracy(heatmap, mask), mass_accuracy(heatmap, ~mask)
    if inside is not None and outside is not None:
        assert 0 <= inside <= 1
        assert inside + outside == pytest.approx(1)
    rank = rank_accuracy(heatmap, mask)
    assert rank is None or 0 <= rank <= 1


@given(Maps, Masks)
def test_a_mask_as_its_own_map_is_perfect(heatmap: np.ndarray, mask: np.ndarray) -> None:
    if mask.any():
        own = mask.astype(float)
        assert points_inside(own, mask)
        assert mass_accuracy(own, mask) == 1
        assert rank_accuracy(own, mask) == 1
