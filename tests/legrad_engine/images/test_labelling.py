"""Connected parts of masks: equal to those of SciPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from legrad_engine.images.labelling import in_line, label

_AROUND = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])

masks = arrays(
    np.bool_,
    array_shapes(min_dims=3, max_dims=3, max_side=9),
    elements=st.booleans(),
    fill=st.nothing(),
)


def labelled(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], int]:
    """Return the number of its part for each place, from 1, and the number of parts."""
    _, height, width = mask.shape
    line = in_line(mask, False)
    runs = label(line, height, width)
    labels = np.zeros(len(line), np.intp)
    for start, stop, part in zip(runs.starts, runs.stops, runs.parts, strict=True):
        labels[start:stop] = part + 1
    shaped = labels.reshape(len(mask), height + 1, width + 1)
    # No place between the rows and masks belongs to a part.
    assert not shaped[:, :, 0].any()
    assert not shaped[:, -1].any()
    np.testing.assert_array_equal(labels[runs.starts[runs.firsts]] - 1, range(len(runs.firsts)))
    return shaped[:, :-1, 1:], len(runs.firsts)


@given(masks)
def test_parts_are_those_of_scipy_in_the_same_order(mask: NDArray[np.bool_]) -> None:
    labels, count = labelled(mask)
    expected, expected_count = ndimage.label(mask, structure=_AROUND)
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


def test_winding_and_full_and_empty_masks_have_the_right_parts() -> None:
    comb = np.zeros((3, 41, 40), bool)
    # Rows that are joined by turns at their ends, in the first mask alone; columns in the second.
    comb[0, ::2] = True
    comb[0, 1::4, 0] = comb[0, 3::4, -1] = True
    comb[1, :, ::2] = True
    comb[2] = True
    labels, count = labelled(comb)
    assert count == 1 + 20 + 1
    assert set(labels[0][comb[0]]) == {1}
    assert set(labels[2].ravel()) == {22}
    labels, count = labelled(np.zeros((2, 5, 5), bool))
    assert count == 0
    assert not labels.any()


def test_short_and_chance_masks_of_many_sizes_are_those_of_scipy() -> None:
    chance = np.random.default_rng(0)
    for _ in range(200):
        mask = chance.random(chance.integers(1, 40, 3)) < chance.random()
        expected, count = ndimage.label(mask, structure=_AROUND)
        labels, found = labelled(mask)
        assert found == count
        np.testing.assert_array_equal(labels, expected)
