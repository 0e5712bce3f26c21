import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import plan, upsample
from legrad_engine.images.rendering import (
    COLORMAPS,
    Blending,
    Normalization,
    colorize,
    normalize,
    opacity_ramp,
    overlay,
)

any_maps = arrays(
    np.float32,
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


def ramp(height: int = 3, width: int = 256) -> np.ndarray:
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


@given(any_maps, st.sampled_from(["each", "shared", "none"]))
def test_normalised_maps_are_always_in_0_to_1(maps: np.ndarray, mode: Normalization) -> None:
    normalized = normalize(maps, mode)
    assert normalized.dtype == np.float32
    assert normalized.shape == maps.shape
    assert ((normalized >= 0) & (normalized <= 1)).all()


def test_each_map_is_stretched_on_its_own() -> None:
    maps = np.array([[[1, 2, 3]], [[10, 20, 10]]], np.float32)
    assert normalize(maps, "each").tolist() == [[[0, 0.5, 1]], [[0, 1, 0]]]


def test_constant_and_extreme_maps_leave_the_others_of_their_picture_alone() -> None:
    largest = np.finfo(np.float32).max
    ordinary = np.linspace(-2, 3, 6, dtype=np.float32).reshape(2, 3)
    maps = np.stack([ordinary, np.full((2, 3), 7.0), largest * np.sign(ordinary), ordinary + 1])
    maps[3, 0, 0], maps[3, 0, 1] = np.nan, -np.inf
    together = normalize(maps.astype(np.float32))
    np.testing.assert_array_equal(together[0], (ordinary + 2) / 5)
    np.testing.assert_array_equal(together[2], [[0, 0, 0.5], [1, 1, 1]])
    for each, single in zip(together, maps.astype(np.float32), strict=True):
        np.testing.assert_array_equal(each, normalize(single[np.newaxis])[0])


def test_shared_maps_stay_comparable() -> None:
    maps = np.array([[[0, 1]], [[2, 4]]], np.float32)
    assert normalize(maps, "shared").tolist() == [[[0, 0.25]], [[0.5, 1]]]


def test_none_clips_and_does_not_scale() -> None:
    maps = np.array([[[-1, 0.25, 2]]], np.float32)
    assert normalize(maps, "none").tolist() == [[[0, 0.25, 1]]]


@pytest.mark.parametrize("mode", ["each", "shared"])
@pytest.mark.parametrize("value", [0.0, 1e-12, 7.0, 3e38])
def test_a_constant_map_becomes_zero(mode: Normalization, value: float) -> None:
    assert not normalize(np.full((2, 3, 3), value), mode).any()


def test_a_constant_map_stays_zero_after_upsampling() -> None:
    geometry = plan((300, 200), size=224, patch_size=(16, 16), fit="pad")
    maps = np.full((1, *geometry.grid), 3e-5, np.float32)
    assert not normalize(upsample(maps, geometry, (300, 200)), "each").any()


def test_tiny_raw_values_use_the_whole_range() -> None:
    assert normalize(np.array([[[1e-9, 2e-9]]]), "each").tolist() == [[[0, 1]]]


def test_normalising_leaves_the_raw_maps_alone() -> None:
    maps = np.array([[[1, 2]]], np.float32)
    normalize(maps, "each")
    assert maps.tolist() == [[[1, 2]]]


def test_an_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(InvalidOptionError, match="each, shared, none") as caught:
        normalize(np.zeros((1, 1, 1)), "all")  # type: ignore[arg-type]
    assert caught.value.field == "normalize"


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_every_colour_map_tells_256_levels_apart(colormap: str) -> None:
    colors = colorize(ramp(), colormap)
    assert colors.dtype == np.uint8
    assert colors.shape == (3, 256, 3)
    assert len(np.unique(colors[0], axis=0)) > 200


def test_colours_are_those_published() -> None:
    first, last = colorize(np.array([[0, 1]], np.float32), "viridis")[0]
    assert (first.tolist(), last.tolist()) == ([68, 1, 84], [253, 231, 37])


def test_an_unknown_colour_map_names_the_known_ones() -> None:
    with pytest.raises(InvalidOptionError, match="turbo, viridis") as caught:
        overlay(Image.new("RGB", (2, 2)), np.zeros((2, 2), np.float32), "jet2")
    assert caught.value.field == "colormap"


def test_an_overlay_shows_the_picture_where_the_map_is_cold() -> None:
    image = Image.new("RGB", (256, 3), (10, 200, 30))
    blended = np.asarray(overlay(image, ramp(), "viridis", 0.5))
    assert blended[0, 0].tolist() == [10, 200, 30]
    hot = (0.5 * np.array([10, 200, 30]) + 0.5 * np.array([253, 231, 37])).tolist()
    assert blended[0, 255] == pytest.approx(hot, abs=1)


def test_alpha_reaches_from_the_picture_to_the_colour() -> None:
    image = Image.new("RGB", (256, 3), (10, 200, 30))
    assert overlay(image, ramp(), alpha=0).tobytes() == image.tobytes()
    opaque = np.asarray(overlay(image, ramp(), "magma", alpha=1))
    np.testing.assert_array_equal(opaque[:, 200:], colorize(ramp(), "magma")[:, 200:])


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(InvalidOptionError, match="0 to 1") as caught:
        overlay(Image.new("RGB", (2, 2)), np.zeros((2, 2), np.float32), alpha=alpha)
    assert caught.value.field == "alpha"


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 400), (70_000, 2)])
@pytest.mark.parametrize("alpha", [0.0, 0.37, 0.6, 1.0])
def test_every_pixel_is_blended_to_within_a_level(size: tuple[int, int], alpha: float) -> None:
    width, height = size
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    levels = generator.integers(0, 256, (height, width), np.uint8)
    blended = Blending(Image.fromarray(pixels), "turbo", alpha).over(levels)
    assert blended.dtype == np.uint8
    assert blended.shape == (height, width, 4)
    opacity = alpha * opacity_ramp()[levels][:, :, np.newaxis]
    exact = (1 - opacity) * pixels + opacity * colorize(levels / np.float32(255), "turbo")
    # A half for rounding the result, and a half for rounding the opacity.
    assert np.abs(blended[:, :, :3] - exact).max() <= 1


def test_several_heatmaps_are_blended_over_one_picture() -> None:
    picture = Image.new("RGB", (4, 4), (10, 200, 30))
    blending = Blending(picture)
    hot, cold = (blending.over(np.full((4, 4), level, np.uint8)) for level in (255, 0))
    assert (hot[:, :, :3] != np.asarray(picture)).any()
    assert (cold[:, :, :3] == np.asarray(picture)).all()
