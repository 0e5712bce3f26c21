"""Presence of the shipped model: its pairs, its fit, and what is measured about it."""

import dataclasses

import numpy as np
import pytest

from legrad_engine import Explainer
from legrad_engine.models import ModelReference
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.presence import PresenceCalibration
from tests.support.art import cut_stickers
from tools.starter import presence
from tools.starter.art import Sprites
from tools.starter.errors import StarterError
from tools.starter.presence import (
    RARE,
    Pairs,
    at_base_rate,
    draw_pairs,
    fit_presence,
    measure_presence,
    reliability,
    shipped_calibration,
)
from tools.starter.scenes import compose, evaluation_recipe, pictures
from tools.starter.styles import VALIDATION_STYLE

pytest.importorskip("skimage", reason="the backgrounds need the optional extra 'starter'")
pytestmark = pytest.mark.slow

STYLES = {VALIDATION_STYLE: 1.0}
STARTER = ModelReference.of("starter")


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.load("starter")


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return cut_stickers()


def drawn_by(slope: float, count: int) -> Pairs:
    """Pairs of which half are shown, and whose exact curve has this slope and no intercept."""
    generator = np.random.default_rng(2)
    shown = np.arange(count) % 2 == 0
    # Two normal distributions of one width: the logit is linear in the value.
    cosines = generator.normal(np.where(shown, 0.5, -0.5), (1 / slope) ** 0.5)
    return Pairs(cosines, shown, np.arange(count), np.ones(count, dtype=np.int64))


def test_every_sticker_of_a_scene_has_its_name_and_another_one(
    explainer: Explainer, sprites: Sprites
) -> None:
    recipe = evaluation_recipe((1, 2, 3))
    pairs = draw_pairs(explainer, sprites, STYLES, recipe, 3, 26)

    scenes = compose(sprites, STYLES, recipe, 3, 25)
    embeddings = explainer.trace(pictures(scenes), layers=1).embeddings
    texts = explainer.text.encode([concept.name for concept in sprites.concepts])
    for number, row in enumerate(scenes.concepts.tolist()):
        present = [concept for concept in row if concept >= 0]
        found = pairs.where(pairs.scenes == number)
        wanted = (embeddings[number] @ texts[present].T).numpy()
        assert found.shown.tolist() == [True] * len(present) + [False] * len(present)
        assert set(found.stickers.tolist()) == {len(present)}
        np.testing.assert_allclose(found.cosines[: len(present)], wanted, atol=1e-5)
        others = (embeddings[number] @ texts.T).numpy()[
            [concept for concept in range(len(texts)) if concept not in present]
        ]
        for cosine in found.cosines[len(present) :]:
            assert np.abs(others - cosine).min() < 1e-5
    assert set(pairs.scenes.tolist()) == set(range(26))


def test_the_calibration_is_fitted_on_both_kinds_of_pairs_and_for_the_loaded_weights(
    explainer: Explainer, sprites: Sprites
) -> None:
    calibration = fit_presence(explainer, sprites, 40)

    identity = ModelIdentity.of(STARTER)
    assert identity is not None
    calibration.check(identity.weights)
    assert calibration.pairs_with == calibration.pairs_without
    assert 40 < calibration.pairs_with <= 120
    assert calibration.source.startswith("40 composed scenes")
    assert calibration.brier < 0.1
    assert calibration.probability(0.1) < 0.2 < 0.8 < calibration.probability(0.5)


def test_a_family_is_measured_by_its_numbers_of_stickers_and_among_rarer_things(
    explainer: Explainer, sprites: Sprites
) -> None:
    found = measure_presence(explainer, sprites, STYLES, 24)

    assert list(found.by_stickers) == [1, 2, 3, 4]
    assert sum(found.by_stickers[count].pairs for count in (1, 2, 3)) == found.overall.pairs
    assert found.by_stickers[4].pairs == 8 * 2 * 4
    assert found.overall.right > 0.85
    assert found.by_stickers[1].right > found.by_stickers[4].right - 0.05
    assert found.rare.mean < found.overall.mean
    assert found.rare_corrected.mean < found.rare.mean


def test_errors_are_those_of_the_probabilities() -> None:
    calibration = PresenceCalibration(1.0, 0.0, 4, 4, 0.0, 0.0, "a test", "blake2b:00")
    cosines = np.log([4.0, 4.0, 4.0, 0.25])  # probabilities 0.8, 0.8, 0.8 and 0.2
    shown = np.array([True, True, False, False])
    pairs = Pairs(cosines, shown, np.arange(4), np.ones(4, dtype=np.int64))

    found = reliability(calibration, pairs)

    assert found.brier == pytest.approx((0.04 + 0.04 + 0.64 + 0.04) / 4)
    assert found.calibration_error == pytest.approx((3 * 0.8 - 2 + 0.2) / 4)
    assert found.mean == pytest.approx(0.65)
    assert found.right == 0.75
    assert found.pairs == 4
    # One pair in ten is shown: 0.05 for each shown one, 0.45 for each other.
    rare = reliability(calibration, pairs, 0.1)
    assert rare.brier == pytest.approx(0.1 * 0.04 + 0.45 * 0.64 + 0.45 * 0.04)
    assert rare.mean == pytest.approx(0.1 * 0.8 + 0.45 * 0.8 + 0.45 * 0.2)
    assert rare.right == pytest.approx(0.55)


def test_the_odds_of_a_base_rate_correct_a_calibration_for_it() -> None:
    calibration = PresenceCalibration(6.0, 0.0, 4, 4, 0.0, 0.0, "a test", "blake2b:00")
    pairs = drawn_by(6.0, 40_000)

    assert reliability(calibration, pairs).calibration_error < 0.01
    plain = reliability(calibration, pairs, RARE)
    corrected = reliability(at_base_rate(calibration, RARE), pairs, RARE)
    assert plain.calibration_error > 0.05
    assert plain.mean > 1.5 * RARE
    assert corrected.calibration_error < 0.01
    assert corrected.mean == pytest.approx(RARE, abs=0.01)
    assert corrected.brier < plain.brier
    assert at_base_rate(calibration, 0.5) == calibration


def test_a_calibration_of_other_weights_is_not_measured(
    explainer: Explainer, sprites: Sprites, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = dataclasses.replace(shipped_calibration(), weights="blake2b:00")
    monkeypatch.setattr(presence, "built_in", lambda reference: stale)

    with pytest.raises(StarterError, match=r"`python -m tools\.starter calibrate`"):
        measure_presence(explainer, sprites, STYLES, 1)
