import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Fit, Geometry, plan, upsample

sides = st.one_of(st.integers(1, 2000), st.integers(1, 60_000_000))
image_sizes = st.tuples(sides, sides)
patches = st.sampled_from([(16, 16), (14, 14), (32, 32), (8, 16)])
fits: st.SearchStrategy[Fit] = st.sampled_from(get_args(Fit))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    patch = draw(patches)
    size = draw(st.integers(1, 40)) * math.lcm(*patch)
    return plan(draw(image_sizes), size=size, patch_size=patch, fit=draw(fits))


@given(geometries())
def test_input_is_whole_patches_and_holds_the_content(geometry: Geometry) -> None:
    rows, columns = geometry.grid
    height, width = geometry.patch_size
    assert (columns * width, rows * height) == geometry.input_size
    left, top, right, bottom = geometry.content_box
    assert 0 <= left < right <= geometry.input_size[0]
    assert 0 <= top < bottom <= geometry.input_size[1]


@given(geometries())
def test_content_cells_lie_in_the_grid_and_are_never_empty(geometry: Geometry) -> None:
    for cells, count in zip(geometry.content_cells, geometry.grid, strict=True):
        assert 0 <= cells.start < cells.stop <= count


@given(geometries(), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_survive_the_round_trip(geometry: Geometry, shares: list[float]) -> None:
    width, height = geometry.image_size
    (left, right), (top, bottom) = sorted(shares[:2]), sorted(shares[2:])
    box = (left * width, top * height, right * width, bottom * height)
    back = geometry.input_to_image(geometry.image_to_input(box))
    assert back == pytest.approx(box, rel=1e-6, abs=1e-6 * max(width, height))


@given(geometries(), st.data())
def test_patches_map_inside_the_picture(geometry: Geometry, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, geometry.grid[0] - 1))
    column = data.draw(st.integers(0, geometry.grid[1] - 1))
    left, top, right, bottom = geometry.grid_to_image((column, row, column + 1, row + 1))
    assert 0 <= left <= right <= geometry.image_size[0]
    assert 0 <= top <= bottom <= geometry.image_size[1]


@given(image_sizes, st.integers(1, 40), patches)
def test_native_never_costs_more_than_the_square(
    image_size: tuple[int, int], count: int, patch: tuple[int, int]
) -> None:
    size = count * math.lcm(*patch)
    rows, columns = plan(image_size, size=size, patch_size=patch, fit="native").grid
    assert 1 <= rows * columns <= (size // patch[0]) * (size // patch[1])


@pytest.mark.parametrize(
    ("image_size", "grid"),
    [
        ((500, 500), (14, 14)),
        ((640, 480), (12, 16)),
        ((480, 640), (16, 12)),
        ((1920, 1080), (10, 18)),
        ((10_000, 1), (1, 196)),
        ((1, 10_000), (196, 1)),
        ((1, 1), (14, 14)),
    ],
)
def test_native_keeps_the_aspect_ratio(image_size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert plan(image_size, size=224, patch_size=(16, 16), fit="native").grid == grid


@pytest.mark.parametrize(
    ("image_size", "content_box"),
    [
        ((640, 480), (0, 28, 224, 196)),
        ((480, 640), (28, 0, 196, 224)),
        ((10_000, 1), (0, 111, 224, 112)),
        ((7, 7), (0, 0, 224, 224)),
    ],
)
def test_pad_centres_the_picture(
    image_size: tuple[int, int], content_box: tuple[int, int, int, int]
) -> None:
    geometry = plan(image_size, size=224, patch_size=(16, 16), fit="pad")
    assert geometry.content_box == content_box


def test_content_cells_leave_the_padding_out() -> None:
    wide = plan((640, 480), size=224, patch_size=(16, 16), fit="pad")
    assert wide.content_cells == (slice(2, 12), slice(0, 14))
    strip = plan((10_000, 1), size=224, patch_size=(16, 16), fit="pad")
    assert strip.content_cells == (slice(6, 7), slice(0, 14))


def test_a_patch_maps_to_its_pixels_in_the_original() -> None:
    squashed = plan((1400, 700), size=224, patch_size=(16, 16), fit="squash")
    assert squashed.grid_to_image((2, 3, 3, 4)) == pytest.approx((200, 150, 300, 200))
    padded = plan((1400, 700), size=224, patch_size=(16, 16), fit="pad")
    assert padded.grid_to_image((2, 3, 3, 4)) == pytest.approx((200, 0, 300, 50))


@pytest.mark.parametrize(
    ("size", "suggestion"),
    [(230, "224 or 240"), (0, "use 16"), (-5, "use 16"), (15, "use 16"), (17, "16 or 32")],
)
def test_a_size_that_is_not_whole_patches_names_the_nearest(size: int, suggestion: str) -> None:
    with pytest.raises(InvalidOptionError, match=suggestion) as caught:
        plan((100, 100), size=size, patch_size=(16, 16), fit="squash")
    assert caught.value.field == "size"


def test_an_unknown_fit_names_the_known_ones() -> None:
    with pytest.raises(InvalidOptionError, match="squash, pad, native") as caught:
        plan((100, 100), size=224, patch_size=(16, 16), fit="stretch")  # type: ignore[arg-type]
    assert caught.value.field == "fit"


def _reference(maps: np.ndarray, geometry: Geometry) -> np.ndarray:
    width, height = geometry.input_size
    left, top, right, bottom = geometry.content_box
    upsampled = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=(height, width), mode="bilinear", align_corners=False
    )[0]
    return upsampled[:, top:bottom, left:right].numpy()


@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
@pytest.mark.parametrize("image_size", [(640, 480), (200, 777), (224, 224), (5000, 3)])
def test_upsampling_to_the_input_size_equals_torch(fit: Fit, image_size: tuple[int, int]) -> None:
    geometry = plan(image_size, size=224, patch_size=(16, 16), fit=fit)
    maps = np.random.default_rng(0).random((3, *geometry.grid), dtype=np.float32)
    expected = _reference(maps, geometry)
    height, width = expected.shape[1:]
    upsampled = upsample(maps, geometry, (width, height))
    assert upsampled.dtype == np.float32
    np.testing.assert_allclose(upsampled, expected, atol=1e-6, rtol=0)


def test_each_output_pixel_samples_the_grid_under_its_centre() -> None:
    geometry = plan((1000, 500), size=224, patch_size=(16, 16), fit="pad")
    rows, columns = geometry.grid
    ramp = np.tile(np.arange(columns, dtype=np.float32), (rows, 1))[None]
    across = upsample(ramp, geometry, (1000, 500))[0, 0]
    expected = (np.arange(1000) + 0.5) / 1000 * columns - 0.5
    np.testing.assert_allclose(across, np.clip(expected, 0, columns - 1), atol=1e-5)


@given(geometries(), st.integers(1, 50), st.integers(1, 50))
def test_upsampling_stays_within_the_range_of_the_map(
    geometry: Geometry, width: int, height: int
) -> None:
    maps = np.random.default_rng(1).random((2, *geometry.grid), dtype=np.float32)
    upsampled = upsample(maps, geometry, (width, height))
    assert upsampled.shape == (2, height, width)
    assert upsampled.min() >= maps.min() - 1e-6
    assert upsampled.max() <= maps.max() + 1e-6
