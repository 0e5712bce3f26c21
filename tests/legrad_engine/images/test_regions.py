import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Fit, Geometry, plan, upsample
from legrad_engine.images.regions import MAX_REGIONS, find_all_regions, find_regions
from legrad_engine.images.rendering import normalize


def geometry(width: int, height: int, fit: Fit = "squash", size: int = 224) -> Geometry:
    return plan((width, height), size=size, patch_size=(16, 16), fit=fit)


def hot(geometry: Geometry, *cells: tuple[int, int, float]) -> np.ndarray:
    heatmap = np.zeros(geometry.grid, np.float32)
    for row, column, value in cells:
        heatmap[row, column] = value
    return heatmap


def test_one_hot_patch_is_boxed_in_original_pixels() -> None:
    layout = geometry(1400, 700)
    (region,) = find_regions(hot(layout, (7, 3, 5e-5)), layout)
    # The patch covers x 300 to 400 and y 350 to 400; bilinear falloff halves at its edges.
    assert region.box == pytest.approx((300, 350, 400, 400), abs=8)
    assert region.peak_position == pytest.approx((350, 375), abs=4)
    assert region.peak == 1
    # Where (1 - |x|)(1 - |y|) >= 0.5 around the centre of a unit patch: 2 - 2 ln 2 of its area.
    patch = 100 * 50 / (1400 * 700)
    assert region.area == pytest.approx((2 - 2 * math.log(2)) * patch, rel=0.1)
    assert 0.5 < region.mean < 1


def test_padding_does_not_shift_boxes() -> None:
    layout = geometry(1400, 700, "pad")
    (region,) = find_regions(hot(layout, (7, 3, 1.0)), layout)
    assert region.box == pytest.approx((300, 350, 400, 450), abs=8)


def test_native_grids_map_to_the_whole_picture() -> None:
    layout = geometry(1600, 900, "native")
    rows, columns = layout.grid
    (region,) = find_regions(hot(layout, (rows - 1, columns - 1, 1.0)), layout)
    assert region.box[2:] == (1600, 900)


@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    "image_size", [(257, 300), (1000, 700), (999, 4001), (3001, 259), (1023, 1025), (100, 80)]
)
def test_a_box_is_the_smallest_that_holds_every_hot_pixel(
    image_size: tuple[int, int], threshold: float, fit: Fit
) -> None:
    layout = geometry(*image_size, fit)
    rows, columns = layout.content_cells
    place = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
    (region,) = find_regions(hot(layout, (*place, 1.0)), layout, threshold)
    fine = upsample(hot(layout, (*place, 1.0))[None], layout, image_size)[0]
    high = np.argwhere(fine >= threshold * fine.max())
    (top, left), (bottom, right) = high.min(0), high.max(0) + 1
    # A pixel, and a fortieth of a patch.
    patch = max(side / cells for side, cells in zip(image_size, layout.grid[::-1], strict=True))
    assert region.box == pytest.approx((left, top, right, bottom), abs=1 + patch / 40)


def test_small_pictures_have_boxes_of_whole_pixels() -> None:
    """Each pixel is a sample, so that no pixel is too many and none is left out."""
    layout = geometry(60, 40)
    heatmap = np.random.default_rng(0).random(layout.grid, np.float32)
    values = normalize(upsample(heatmap[None], layout, (60, 40)))[0]
    labels, count = ndimage.label(values >= 0.6, structure=np.ones((3, 3)))
    expected = {
        (across.start, down.start, across.stop, down.stop)
        for down, across in ndimage.find_objects(labels)
    }
    regions = find_regions(heatmap, layout, 0.6)
    assert 3 < count <= MAX_REGIONS
    assert {region.box for region in regions} == expected
    for region in regions:
        x, y = region.peak_position
        inside = values[labels == labels[y, x]]
        assert region.peak == pytest.approx(inside.max())
        assert region.mean == pytest.approx(inside.mean())
        assert region.area == pytest.approx(inside.size / values.size)


# Longer side in pixels of the map that the slow search labels.
FINE = 1024


def found_slowly(heatmap: np.ndarray, layout: Geometry, threshold: float) -> np.ndarray:
    """Label a map of many pixels, and return (left, top, right, bottom) of each part in patches."""
    scale = FINE / max(layout.image_size)
    size = (round(layout.image_size[0] * scale), round(layout.image_size[1] * scale))
    values = normalize(upsample(heatmap[None], layout, size))[0]
    parts = ndimage.find_objects(ndimage.label(values >= threshold, np.ones((3, 3)))[0])
    boxes = [(across.start, down.start, across.stop, down.stop) for down, across in parts]
    return np.array(boxes) / scale


@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
@pytest.mark.parametrize(("size", "exactness"), [(224, 0.2), (336, 0.3), (480, 0.5)])
def test_boxes_are_those_of_a_search_over_many_pixels(
    fit: Fit, size: int, exactness: float
) -> None:
    chance = np.random.default_rng(size)
    compared, errors = 0, []
    for _ in range(14):
        width, height = chance.integers(600, 4000, 2).tolist()
        layout = geometry(width, height, fit, size)
        spread = chance.uniform(0.8, 1.6) * size / 224
        heatmap = ndimage.gaussian_filter(chance.gamma(0.6, 1, layout.grid), spread)
        threshold = chance.uniform(0.3, 0.8)
        expected = found_slowly(heatmap, layout, threshold)
        nearby = (found_slowly(heatmap, layout, threshold * share) for share in (0.97, 1.03))
        if any(len(each) != len(expected) for each in nearby) or len(expected) > MAX_REGIONS:
            # Two parts touch almost, or one is almost nothing: neither search is certain.
            continue
        compared += 1
        found = np.array([each.box for each in find_regions(heatmap, layout, threshold)])
        assert len(found) == len(expected)
        left, top, right, bottom = layout.content_box
        patch = 16 * width / (right - left), 16 * height / (bottom - top)
        distances = np.abs(found[:, None] - expected[None]) / [*patch, *patch]
        errors += distances.max(axis=2).min(axis=0).tolist()
    assert compared >= 3
    assert np.quantile(errors, 0.9) < 0.1
    assert max(errors) < exactness


def test_several_maps_have_the_regions_that_each_has_alone() -> None:
    layout = geometry(300, 200)
    maps = np.random.default_rng(1).random((3, *layout.grid), np.float32)
    maps[1] = 2.0
    together = find_all_regions(maps, layout, 0.7)
    assert together == [find_regions(each, layout, 0.7) for each in maps]
    assert [bool(each) for each in together] == [True, False, True]


def test_separate_patches_are_separate_regions_hottest_first() -> None:
    layout = geometry(224, 224)
    heatmap = hot(layout, (2, 2, 0.7), (10, 10, 1.0))
    strong, weak = find_regions(heatmap, layout)
    assert strong.peak == 1
    assert weak.peak == pytest.approx(0.7, abs=0.05)
    assert strong.box[0] > weak.box[2]


def test_diagonal_neighbours_are_one_region() -> None:
    layout = geometry(14, 14)
    assert len(find_regions(np.eye(14, dtype=np.float32), layout, threshold=0.9)) == 1


def test_a_constant_map_has_no_regions() -> None:
    layout = geometry(300, 200)
    for value in (0.0, 3.0, np.nan):
        assert find_regions(np.full(layout.grid, value, np.float32), layout) == []


def test_the_number_of_regions_is_bounded() -> None:
    layout = geometry(448, 448, size=448)
    checkers = np.zeros(layout.grid, np.float32)
    checkers[::2, ::2] = np.linspace(0.9, 1, 14 * 14).reshape(14, 14)
    assert len(find_regions(checkers, layout, threshold=0.6)) == MAX_REGIONS


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan"), float("inf")])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    layout = geometry(100, 100)
    with pytest.raises(InvalidOptionError, match="above 0 and at most 1") as caught:
        find_regions(np.zeros(layout.grid), layout, threshold)
    assert caught.value.field == "threshold"


def test_the_highest_threshold_still_finds_the_peak() -> None:
    layout = geometry(500, 500)
    assert len(find_regions(hot(layout, (4, 4, 1.0)), layout, threshold=1)) >= 1


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.sampled_from(["squash", "pad", "native"]),
    st.floats(0.01, 1),
    st.data(),
)
def test_regions_lie_in_the_picture(
    image_size: tuple[int, int], fit: Fit, threshold: float, data: st.DataObject
) -> None:
    layout = geometry(*image_size, fit, size=64)
    heatmap = data.draw(arrays(np.float32, layout.grid, elements=st.floats(0, 1, width=32)))
    width, height = image_size
    regions = find_regions(heatmap, layout, threshold)
    for region in regions:
        left, top, right, bottom = region.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        x, y = region.peak_position
        assert left <= x < right
        assert top <= y < bottom
        assert threshold - 1e-6 <= region.mean <= region.peak + 1e-6 <= 1 + 1e-5
        assert 0 < region.area <= 1
    assert sum(region.area for region in regions) <= 1 + 1e-9
    heat = [region.mean * region.area for region in regions]
    assert heat == pytest.approx(sorted(heat, reverse=True))
