"""Heatmaps in whole levels, against the steps in floats that they stand for."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.enlarging import enlarge
from legrad_engine.images.geometry import Fit, plan, upsample
from legrad_engine.images.rendering import Normalization, normalize, to_levels

sides = st.integers(1, 120)
fits = st.sampled_from(["squash", "pad", "native"])
modes = st.sampled_from(["each", "shared", "none"])


@given(st.tuples(sides, sides), st.tuples(sides, sides), fits, modes, st.booleans(), st.data())
def test_levels_are_those_of_the_steps_in_floats(
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    fit: Fit,
    mode: Normalization,
    deep: bool,
    data: st.DataObject,
) -> None:
    layout = plan(image_size, size=64, patch_size=(16, 16), fit=fit)
    shape = (data.draw(st.integers(1, 3)), *layout.grid)
    maps = data.draw(arrays(np.float32, shape, elements=st.floats(-2, 2, width=16)))
    full_scale: Literal[255, 65535] = 65535 if deep else 255
    levels = enlarge(maps, layout, output_size, mode, full_scale)
    in_floats = normalize(upsample(maps, layout, output_size), mode)
    assert levels.dtype == (np.uint16 if deep else np.uint8)
    expected = to_levels(in_floats, full_scale).astype(int)
    # Of 65535 levels, float32 itself is only exact to a few.
    assert np.abs(levels.astype(int) - expected).max() <= (16 if deep else 1)


def test_the_whole_range_is_used() -> None:
    layout = plan((1000, 700), size=224, patch_size=(16, 16), fit="pad")
    maps = np.random.default_rng(0).random((2, *layout.grid), np.float32) * 1e-5
    for levels in enlarge(maps, layout, (1000, 700)):
        assert (levels.min(), levels.max()) == (0, 255)
    (levels, _) = enlarge(maps, layout, (1000, 700), full_scale=65535)
    assert (levels.min(), levels.max()) == (0, 65535)


@pytest.mark.parametrize("mode", ["each", "shared"])
@pytest.mark.parametrize("value", [0.0, 3e-5, 7.0, 3e38, -3e38])
def test_a_constant_map_becomes_zero(mode: Normalization, value: float) -> None:
    layout = plan((300, 200), size=224, patch_size=(16, 16), fit="pad")
    assert not enlarge(np.full((1, *layout.grid), value), layout, (300, 200), mode).any()


def test_no_maps_have_no_levels() -> None:
    layout = plan((30, 20), size=32, patch_size=(16, 16), fit="squash")
    for mode in ("each", "shared", "none"):
        assert enlarge(np.zeros((0, 2, 2)), layout, (30, 20), mode).shape == (0, 20, 30)


def test_an_unknown_mode_names_the_known_ones() -> None:
    layout = plan((30, 20), size=32, patch_size=(16, 16), fit="squash")
    with pytest.raises(InvalidOptionError, match="each, shared, none") as caught:
        enlarge(np.zeros((1, 2, 2)), layout, (30, 20), "all")  # type: ignore[arg-type]
    assert caught.value.field == "normalize"
