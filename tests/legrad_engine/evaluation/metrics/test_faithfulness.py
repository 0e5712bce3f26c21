"""Imputation, ROAD and SaCo: hand-computed, by properties, and against `grad-cam` and `quantus`."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reference_package import install_aside
from legrad_engine.evaluation.metrics.faithfulness import (
    ROAD_SHARES,
    NeighbourMeans,
    blur,
    road,
)
from legrad_engine.evaluation.metrics.localisation import (
    mass_accuracy,
    points_inside,
    rank_accuracy,
)
from legrad_engine.evaluation.metrics.perturbation import first, order_of
from legrad_engine.evaluation.metrics.saco import saco, saliency_groups
from tests.support.paths import ROOT, TESTS

FOLDER = ROOT / ".reference-metrics"
REQUIREMENTS = ("grad-cam==1.5.7", "quantus==0.6.0", "ttach==0.0.3", "xarray")
SIDE = 24


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def test_a_missing_pixel_is_the_weighted_mean_of_its_neighbours() -> None:
    pixels = np.arange(9, dtype=np.float32).reshape(1, 3, 3) ** 2
    missing = np.zeros((3, 3), bool)
    missing[1, 1] = True
    filled = NeighbourMeans((3, 3)).fill(pixels, missing, 0, generator())
    direct, diagonal = (1 + 9 + 25 + 49) / 6, (0 + 4 + 36 + 64) / 12
    assert filled[0, 1, 1] == pytest.approx(direct + diagonal)
    assert np.array_equal(filled[0][~missing], pixels[0][~missing])


def test_the_corner_counts_only_neighbours_in_the_picture() -> None:
    pixels = np.array([[[0, 6], [12, 24]]], np.float32)
    missing = np.array([[True, False], [False, False]])
    filled = NeighbourMeans((2, 2)).fill(pixels, missing, 0, generator())
    assert filled[0, 0, 0] == pytest.approx((6 / 6 + 12 / 6 + 24 / 12) / (2 / 6 + 1 / 12))


def test_imputation_keeps_a_constant_picture_and_stays_within_the_known_values() -> None:
    missing = generator().random((8, 9)) < 0.7
    means = NeighbourMeans((8, 9))
    flat = means.fill(np.full((3, 8, 9), 0.25, np.float32), missing, 0, generator())
    assert np.allclose(flat, 0.25)
    pixels = generator().random((3, 8, 9)).astype(np.float32)
    filled = means.fill(pixels, missing, 0, generator())
    known = pixels[:, ~missing]
    assert (filled >= known.min(1)[:, None, None] - 1e-6).all()
    assert (filled <= known.max(1)[:, None, None] + 1e-6).all()


def test_noise_falls_on_imputed_pixels_alone() -> None:
    missing = np.zeros((40, 40), bool)
    missing[:, :20] = True
    filled = NeighbourMeans((40, 40)).fill(
        np.zeros((1, 40, 40), np.float32), missing, 0.01, generator()
    )
    assert (filled[0][~missing] == 0).all()
    assert filled[0][missing].std() == pytest.approx(0.01, rel=0.1)


def test_the_blur_keeps_the_mean_and_reaches_five_pixels() -> None:
    dot = np.zeros((1, 31, 31), np.float32)
    dot[0, 15, 15] = 1
    blurred = blur(dot)
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    rows, columns = np.nonzero(blurred[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 20, 10, 20)


def test_road_is_half_the_difference_of_both_orders() -> None:
    assert road([0.8, 0.6], [0.2, 0.4]) == pytest.approx(0.2)


def test_saco_of_three_groups_counted_by_hand() -> None:
    assert saco([5, 3, 1], [0.3, 0.2, 0.1]) == 1
    assert saco([5, 3, 1], [0.1, 0.2, 0.3]) == -1
    # Pairs: 5-3 right (2), 5-1 wrong (-4), 3-1 wrong (-2), of 8.
    assert saco([5, 3, 1], [0.2, 0.1, 0.3]) == pytest.approx(-0.5)
    assert saco([5, 3, 1], [0.2, 0.2, 0.2]) == 1
    assert saco([2, 2], [0.1, 0.2]) is None


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=10))
def test_saco_is_within_its_bounds(pairs: list[tuple[float, float]]) -> None:
    saliencies, drops = zip(*sorted(pairs, reverse=True), strict=True)
    value = saco(saliencies, drops)
    assert value is None or -1 - 1e-9 <= value <= 1 + 1e-9


def test_drops_without_relation_to_saliency_have_a_saco_of_about_zero() -> None:
    noise = generator()
    values = [saco(list(range(10, 0, -1)), noise.random(10).tolist()) for _ in range(400)]
    assert abs(np.mean([value for value in values if value is not None])) < 0.06


def test_groups_have_equal_sizes() -> None:
    assert [len(group) for group in saliency_groups(np.arange(23))] == [3] * 3 + [2] * 7


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of `grad-cam` and `quantus` on one input, from a process of their own."""
    try:
        install_aside(FOLDER, REQUIREMENTS)
    except subprocess.CalledProcessError:
        pytest.skip("grad-cam and quantus cannot be installed here")
    folder = tmp_path_factory.mktemp("reference")
    pixels, heatmap, mask = inputs()
    np.savez(folder / "inputs.npz", pixels=pixels, heatmap=heatmap, mask=mask)
    script = TESTS / "legrad_engine" / "evaluation" / "reference" / "run_metrics.py"
    subprocess.run(
        [sys.executable, str(script), str(folder)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(FOLDER)},
    )
    found = np.load(folder / "imputed.npz")
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return figures | dict(found)


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    noise = generator()
    pixels = noise.standard_normal((3, SIDE, SIDE)).astype(np.float32)
    heatmap = noise.permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.float32)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3:12, 5:20] = True
    return pixels, heatmap, mask


@pytest.mark.slow
def test_imputation_equals_that_of_grad_cam_and_quantus(reference: dict[str, Any]) -> None:
    pixels, heatmap, _ = inputs()
    means = NeighbourMeans((SIDE, SIDE))
    for share in ROAD_SHARES:
        missing = first(order_of(heatmap), share, (SIDE, SIDE))
        ours = means.fill(pixels, missing, 0, generator())
        for package in ("grad_cam", "quantus"):
            theirs = reference[f"{package} {round(100 * share)}"]
            assert np.abs(ours - theirs).max() < 1e-4, (package, share)


@pytest.mark.slow
def test_road_equals_that_of_grad_cam(reference: dict[str, Any]) -> None:
    """The score of the reference's model is the mean of the first channel."""
    pixels, heatmap, _ = inputs()
    means, order = NeighbourMeans((SIDE, SIDE)), order_of(heatmap)
    scores = [
        [
            float(means.fill(pixels, first(one, share, (SIDE, SIDE)), 0, generator())[0].mean())
            for share in ROAD_SHARES
        ]
        for one in (order[::-1], order)
    ]
    # A percentile lies between two pixels: its masks differ by at most one pixel from ours.
    assert road(*scores) == pytest.approx(reference["road"], abs=2e-3)


@pytest.mark.slow
def test_localisation_equals_that_of_quantus(reference: dict[str, Any]) -> None:
    _, heatmap, mask = inputs()
    assert mass_accuracy(heatmap, mask) == pytest.approx(reference["mass"], abs=1e-6)
    assert rank_accuracy(heatmap, mask) == pytest.approx(reference["rank"], abs=1e-6)
    assert points_inside(heatmap, mask) == bool(reference["pointing"])
