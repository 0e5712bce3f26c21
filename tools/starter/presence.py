"""Presence of the starter model: fit of its calibration, and reliability on families of art."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine import Explainer
from legrad_engine.models import ModelReference
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.presence import (
    PresenceCalibration,
    PresenceError,
    brier_score,
    built_in,
    expected_calibration_error,
    fit,
)
from tools.starter.art import Sprites
from tools.starter.errors import StarterError
from tools.starter.scenes import Recipe, compose, evaluation_recipe, pictures
from tools.starter.styles import TRAINING_STYLES

_STARTER = ModelReference.of("starter")
_FIT_SEED = 5_000_000
_MEASURE_SEED = 6_000_000
_CROWDED_SEED = 6_500_000
_CHUNK = 25
# The calibration is fitted on scenes of these numbers of stickers.
_COUNTS = (1, 2, 3)
# No scene of the fit has as many.
CROWDED = 4
RARE = 0.1
"""Share of pairs whose thing is in the scene, where presence is measured among rarer things."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of a scene and a name, half of which are in the scene.

    Attributes:
        cosines: float64 `[pairs]`, of the picture and the name.
        shown: bool `[pairs]`, whether the name is in the scene.
        scenes: int64 `[pairs]`, the number of the scene.
        stickers: int64 `[pairs]`, the number of stickers in the scene.
    """

    cosines: NDArray[np.float64]
    shown: NDArray[np.bool_]
    scenes: NDArray[np.int64]
    stickers: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Return a part of the pairs."""
        return Pairs(
            self.cosines[chosen], self.shown[chosen], self.scenes[chosen], self.stickers[chosen]
        )


@dataclass(frozen=True)
class Reliability:
    """Measures of the presence on pairs of a scene and a name.

    Attributes:
        brier: Mean squared error of the probability; 0.25 if it is always a half.
        calibration_error: Expected calibration error over ten bins.
        right: Share of pairs on the right side of a half.
        mean: Mean probability; that of a calibrated presence is the share of pairs that are shown.
        pairs: Number of pairs.
    """

    brier: float
    calibration_error: float
    right: float
    mean: float
    pairs: int


@dataclass(frozen=True)
class PresenceReport:
    """Measures of the presence on one family of art.

    Attributes:
        overall: On scenes of one to three stickers, as in the fit; half of the pairs are shown.
        by_stickers: On the same scenes by their numbers of stickers, and on scenes of four.
        rare: As `overall`, with the pairs weighted so that `RARE` of them are shown.
        rare_corrected: The same, with the logarithm of the odds of `RARE` added to the logit.
    """

    overall: Reliability
    by_stickers: dict[int, Reliability]
    rare: Reliability
    rare_corrected: Reliability


def draw_pairs(
    explainer: Explainer,
    sprites: Sprites,
    styles: Mapping[str, float],
    recipe: Recipe,
    seed: int,
    total: int,
) -> Pairs:
    """Draw scenes, and pair each with the names of its stickers and with as many other names.

    Args:
        explainer: The engine with the model.
        sprites: The rendered art.
        styles: The art styles and their relative frequencies.
        recipe: The parameters of the scenes.
        seed: Seed of the scenes and of the other names.
        total: Number of scenes.
    """
    texts = explainer.text.encode([concept.name for concept in sprites.concepts])
    generator = np.random.default_rng(seed)
    cosines: list[float] = []
    shown: list[bool] = []
    numbers: list[int] = []
    stickers: list[int] = []
    for start in range(0, total, _CHUNK):
        scenes = compose(sprites, styles, recipe, seed + start, min(_CHUNK, total - start))
        embeddings = explainer.trace(pictures(scenes), layers=1).embeddings
        similarities = (embeddings @ texts.T).cpu().numpy()
        for index, row in enumerate(scenes.concepts.tolist()):
            present = [concept for concept in row if concept >= 0]
            others = np.setdiff1d(np.arange(len(sprites.concepts)), present)
            absent = generator.choice(others, len(present), replace=False).tolist()
            cosines += similarities[index, [*present, *absent]].tolist()
            shown += [True] * len(present) + [False] * len(absent)
            numbers += [start + index] * (2 * len(present))
            stickers += [len(present)] * (2 * len(present))
    return Pairs(np.array(cosines), np.array(shown), np.array(numbers), np.array(stickers))


def fit_presence(explainer: Explainer, sprites: Sprites, total: int) -> PresenceCalibration:
    """Fit the calibration on scenes of training, in varied style.

    Args:
        explainer: The engine with the exported model.
        sprites: The rendered art.
        total: Number of scenes.
    """
    identity = ModelIdentity.of_loaded(_STARTER, None)
    recipe = dataclasses.replace(evaluation_recipe(_COUNTS), vary_style=True)
    pairs = draw_pairs(explainer, sprites, TRAINING_STYLES, recipe, _FIT_SEED, total)
    source = f"{total:,} composed scenes in the styles of training, and names of concepts"
    return fit(pairs.cosines, pairs.shown, pairs.scenes.tolist(), source=source, identity=identity)


def at_base_rate(calibration: PresenceCalibration, rate: float) -> PresenceCalibration:
    """Correct a calibration, half of whose pairs were shown, for another share of them.

    Args:
        calibration: The calibration.
        rate: Share of the pairs whose thing is shown, between 0 and 1.
    """
    # The odds that a thing is shown change by one factor for all cosines (Bayes).
    return dataclasses.replace(
        calibration, intercept=calibration.intercept + math.log(rate / (1 - rate))
    )


def reliability(
    calibration: PresenceCalibration, pairs: Pairs, rate: float | None = None
) -> Reliability:
    """Measure a calibration on pairs.

    Args:
        calibration: The calibration.
        pairs: The pairs.
        rate: Share of shown pairs that the pairs are weighted to; None for their own.
    """
    shown = pairs.shown
    weights = None
    if rate is not None:
        weights = np.where(shown, rate / shown.mean(), (1 - rate) / (~shown).mean())
    found = np.array([calibration.probability(each) for each in pairs.cosines])
    return Reliability(
        brier=brier_score(found, shown, weights),
        calibration_error=expected_calibration_error(found, shown, weights),
        right=float(np.average((found > 0.5) == shown, weights=weights)),
        mean=float(np.average(found, weights=weights)),
        pairs=len(shown),
    )


def shipped_calibration() -> PresenceCalibration:
    """Return the shipped calibration, if it is of the shipped weights.

    Raises:
        StarterError: It is of other weights, as after an export without a new calibration, or
            cannot be read.
    """
    try:
        calibration = built_in(_STARTER)
        if calibration is None:
            raise PresenceError("The built-in model has no presence calibration.")
        calibration.check(ModelIdentity.of_loaded(_STARTER, None).weights)
    except PresenceError as error:
        raise StarterError(f"{error} Here: `python -m tools.starter calibrate`.") from error
    return calibration


def measure_presence(
    explainer: Explainer, sprites: Sprites, styles: Mapping[str, float], total: int
) -> PresenceReport:
    """Measure the shipped calibration on scenes of some styles, without style variation.

    Args:
        explainer: The engine with the shipped model.
        sprites: The rendered art.
        styles: The art styles and their relative frequencies.
        total: Number of scenes of one to three stickers; a third as many have four.

    Raises:
        StarterError: The calibration is of other weights.
    """
    calibration = shipped_calibration()
    pairs = draw_pairs(explainer, sprites, styles, evaluation_recipe(_COUNTS), _MEASURE_SEED, total)
    crowded = draw_pairs(
        explainer,
        sprites,
        styles,
        evaluation_recipe((CROWDED,)),
        _CROWDED_SEED,
        math.ceil(total / len(_COUNTS)),
    )
    by_stickers = {
        count: reliability(calibration, pairs.where(pairs.stickers == count))
        for count in _COUNTS
        if (pairs.stickers == count).any()
    }
    return PresenceReport(
        overall=reliability(calibration, pairs),
        by_stickers=by_stickers | {CROWDED: reliability(calibration, crowded)},
        rare=reliability(calibration, pairs, RARE),
        rare_corrected=reliability(at_base_rate(calibration, RARE), pairs, RARE),
    )
