"""Presence: the fitted curve, its measures, and refused files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.reference import ModelReference
from legrad_engine.presence import (
    LEAST_PAIRS,
    PresenceCalibration,
    PresenceError,
    brier_score,
    built_in,
    expected_calibration_error,
    fit,
)

WEIGHTS = ModelIdentity("blake2b:00")
GOOD = PresenceCalibration(12.0, -3.0, 40, 60, 0.1, 0.02, "40 pictures", "blake2b:00")


def fitted(cosines: Any, shown: Any, pictures: Any = None) -> PresenceCalibration:
    names = range(len(cosines)) if pictures is None else pictures
    return fit(cosines, shown, names, source="a test", identity=WEIGHTS)


def drawn(slope: float, intercept: float, count: int) -> tuple[Any, Any]:
    """Cosines, and labels that are drawn with the probability of a known curve."""
    generator = np.random.default_rng(3)
    cosines = generator.uniform(-0.2, 0.9, count)
    return cosines, generator.random(count) < 1 / (1 + np.exp(-(slope * cosines + intercept)))


def test_the_curve_that_made_the_labels_is_found_again() -> None:
    found = fitted(*drawn(11.0, -4.0, 20_000))

    assert found.slope == pytest.approx(11.0, rel=0.05)
    assert found.intercept == pytest.approx(-4.0, rel=0.05)
    assert found.calibration_error < 0.02
    for cosine in (-0.1, 0.35, 0.8):
        expected = 1 / (1 + np.exp(-(11.0 * cosine - 4.0)))
        assert found.probability(cosine) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_similarities_of_any_scale_are_fitted(scale: float, shift: float) -> None:
    cosines, shown = drawn(11.0, -4.0, 2_000)
    plain, moved = fitted(cosines, shown), fitted(scale * cosines + shift, shown)

    for cosine in (0.0, 0.4):
        assert moved.probability(scale * cosine + shift) == pytest.approx(
            plain.probability(cosine), abs=1e-6
        )


def test_separated_pairs_give_a_finite_curve() -> None:
    cosines = np.r_[np.full(30, 0.1), np.full(30, 0.6)]
    found = fitted(cosines, cosines > 0.3)

    assert np.isfinite([found.slope, found.intercept]).all()
    assert found.probability(0.1) < 0.1
    assert found.probability(0.6) > 0.9
    assert found.probability(1e9) == 1.0
    assert found.probability(-1e9) == 0.0


def test_errors_are_measured_on_pictures_left_out_of_the_fit() -> None:
    # The cosines of the second picture are all larger than those of the first one: a curve that
    # was fitted on one of them is wrong on the other, and one that knows both is not.
    shown = np.tile([True, False], 80)
    first = np.arange(160) < 80
    cosines = np.where(shown, 0.3, 0.0) + np.where(first, 0.0, 0.6)
    grouped = fitted(cosines, shown, np.where(first, "first", "second").tolist())

    of_first, of_second = (fitted(cosines[part], shown[part]) for part in (first, ~first))
    left_out = [
        (of_second if is_first else of_first).probability(cosine)
        for cosine, is_first in zip(cosines, first, strict=True)
    ]
    assert grouped.brier == pytest.approx(brier_score(np.array(left_out), shown))
    in_sample = [grouped.probability(cosine) for cosine in cosines]
    assert brier_score(np.array(in_sample), shown) < 0.3 < 0.45 < grouped.brier
    # As many folds, but of pairs.
    assert fitted(cosines, shown).brier < 0.3
    assert grouped.calibration_error > 0.45
    assert (grouped.pairs_with, grouped.pairs_without) == (80, 80)


def test_pairs_of_one_picture_are_refused() -> None:
    cosines, shown = drawn(11.0, -4.0, 200)

    with pytest.raises(PresenceError, match="All pairs are of one picture"):
        fitted(cosines, shown, ["one"] * 200)
    assert fitted(cosines, shown, ["one", "two"] * 100).slope > 0


def test_the_measures_have_their_textbook_values() -> None:
    shown = np.array([True, False, True, True])
    certain = shown.astype(np.float64)

    assert brier_score(certain, shown) == expected_calibration_error(certain, shown) == 0
    assert brier_score(1 - certain, shown) == expected_calibration_error(1 - certain, shown) == 1
    half = np.full(4, 0.5)
    assert brier_score(half, shown) == 0.25
    assert expected_calibration_error(half, shown) == pytest.approx(0.25)


def test_a_pair_of_weight_three_counts_as_three_pairs() -> None:
    generator = np.random.default_rng(4)
    probabilities, shown = generator.random(50), generator.random(50) < 0.3
    weights = generator.integers(1, 4, 50)
    halved = (weights / 2).astype(np.float64)

    for measure in (brier_score, expected_calibration_error):
        repeated = measure(np.repeat(probabilities, weights), np.repeat(shown, weights))
        assert measure(probabilities, shown, halved) == pytest.approx(repeated)


@pytest.mark.parametrize("shown", [True, False])
def test_too_few_pairs_of_a_kind_are_refused(shown: bool) -> None:
    labels = [shown] * 100 + [not shown] * (LEAST_PAIRS - 1)

    with pytest.raises(PresenceError, match=f"needs {LEAST_PAIRS} of each"):
        fitted(np.linspace(0, 1, len(labels)), labels)


def test_a_similarity_that_falls_where_the_thing_is_shown_is_refused() -> None:
    cosines, shown = drawn(11.0, -4.0, 400)

    with pytest.raises(PresenceError, match="not larger"):
        fitted(cosines, ~shown)
    with pytest.raises(PresenceError, match="not finite"):
        fitted(np.where(cosines > 0.5, np.nan, cosines), shown)


def test_a_written_calibration_is_read_again(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "presence.json")

    assert PresenceCalibration.read(tmp_path / "presence.json") == GOOD


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "format"),
        ({"slope": 0}, "slope"),
        ({"slope": -1.0}, "slope"),
        ({"slope": "12"}, "slope"),
        ({"slope": float("nan")}, "slope"),
        ({"slope": 10**400}, "slope"),
        ({"brier": -7}, "brier"),
        ({"calibration_error": 99}, "calibration_error"),
        ({"pairs_with": 0}, "pairs_with"),
        ({"intercept": None}, "intercept"),
        ({"intercept": True}, "intercept"),
        ({"pairs_with": 1.5}, "pairs_with"),
        ({"pairs_without": -1}, "pairs_without"),
        ({"weights": ""}, "weights"),
        ({"source": 3}, "source"),
    ],
    ids=repr,
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "presence.json"
    GOOD.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(PresenceError, match=f"{reason}.*legrad calibrate"):
        PresenceCalibration.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff", b" " * 200_000], ids=len)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "presence.json"
    path.write_bytes(content)

    with pytest.raises(PresenceError, match=r"presence\.json"):
        PresenceCalibration.read(path)
    with pytest.raises(PresenceError, match="cannot be read"):
        PresenceCalibration.read(tmp_path)


def test_a_calibration_of_other_weights_is_refused() -> None:
    GOOD.check("blake2b:00")
    for other in ("blake2b:01", None):
        with pytest.raises(PresenceError, match="fit it again"):
            GOOD.check(other)


def test_the_built_in_model_ships_with_the_calibration_of_its_own_weights() -> None:
    reference = ModelReference.of("starter")
    calibration, identity = built_in(reference), ModelIdentity.of(reference)

    assert calibration is not None
    assert identity is not None
    calibration.check(identity.weights)
    assert built_in(ModelReference.of("ViT-B-16", "openai")) is None
