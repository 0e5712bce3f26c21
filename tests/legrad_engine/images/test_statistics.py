import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from legrad_engine.images.geometry import Fit, plan
from legrad_engine.images.statistics import summarize

SQUARE = plan((1400, 700), size=224, patch_size=(16, 16), fit="squash")
PADDED = plan((1400, 700), size=224, patch_size=(16, 16), fit="pad")


def test_one_hot_patch_is_a_sharp_peak() -> None:
    heatmap = np.zeros(SQUARE.grid, np.float32)
    heatmap[7, 3] = 0.25
    statistics = summarize(heatmap, SQUARE)
    assert statistics.peak == 0.25
    assert statistics.peak_position == (350, 375)
    assert statistics.mean == pytest.approx(0.25 / 196)
    assert statistics.entropy == 0
    assert statistics.border_mass == 0


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
def test_a_constant_map_counts_as_uniform(value: float) -> None:
    statistics = summarize(np.full(SQUARE.grid, value), SQUARE)
    assert statistics.entropy == pytest.approx(1)
    assert statistics.border_mass == pytest.approx(52 / 196)
    assert statistics.mean == pytest.approx(value)


def test_two_equal_patches_have_the_entropy_of_a_coin() -> None:
    heatmap = np.zeros(SQUARE.grid)
    heatmap[3, 3] = heatmap[9, 9] = 1
    assert summarize(heatmap, SQUARE).entropy == pytest.approx(math.log(2) / math.log(196))


def test_heat_along_the_frame_is_border_mass() -> None:
    heatmap = np.zeros(SQUARE.grid)
    heatmap[0], heatmap[5, 5] = 1, 14
    assert summarize(heatmap, SQUARE).border_mass == pytest.approx(0.5)


def test_padding_is_left_out() -> None:
    heatmap = np.zeros(PADDED.grid)
    heatmap[0, 0] = 100
    heatmap[7, 7] = 1
    statistics = summarize(heatmap, PADDED)
    assert statistics.peak == 1
    assert statistics.peak_position == (750, 400)
    assert statistics.entropy == 0
    first_content_row = PADDED.content_cells[0].start
    heatmap[first_content_row, 7] = 1
    assert summarize(heatmap, PADDED).border_mass == pytest.approx(0.5)


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.sampled_from(["squash", "pad", "native"]),
    st.sampled_from([16, 64]),
    st.data(),
)
def test_statistics_are_finite_and_in_range(
    image_size: tuple[int, int], fit: Fit, size: int, data: st.DataObject
) -> None:
    geometry = plan(image_size, size=size, patch_size=(16, 16), fit=fit)
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False)
    heatmap = data.draw(arrays(np.float32, geometry.grid, elements=elements))
    statistics = summarize(heatmap, geometry)
    assert 0 <= statistics.entropy <= 1
    assert 0 <= statistics.border_mass <= 1
    assert math.isfinite(statistics.peak)
    assert math.isfinite(statistics.mean)
    x, y = statistics.peak_position
    assert 0 <= x < image_size[0]
    assert 0 <= y < image_size[1]
