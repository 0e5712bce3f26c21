"""Presence of the starter model: fit of its calibration, and reliability on families of art."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine import Explainer
from legrad_engine.models import ModelReference
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.presence import (
    PresenceCalibration,
    brier_score,
    built_in,
    expected_calibration_error,
    fit,
)
from tools.starter.art import Sprites
from tools.starter.scenes import Recipe, compose, evaluation_recipe, pictures
from tools.starter.styles import TRAINING_STYLES

_FIT_SEED = 5_000_000
_MEASURE_SEED = 6_000_000
_CHUNK = 25
_COUNTS = (1, 2, 3)


@dataclass(frozen=True)
class Reliability:
    """Measures of the presence on pairs of a scene and a name, half of which are in the scene.

    Attributes:
        brier: Mean squared error of the probability; 0.25 if it is always a half.
        calibration_error: Expected calibration error over ten bins.
        right: Share of pairs on the right side of a half.
        pairs: Number of pairs.
    """

    brier: float
    calibration_error: float
    right: float
    pairs: int


def _pairs(
    explainer: Explainer,
    sprites: Sprites,
    styles: Mapping[str, float],
    recipe: Recipe,
    seed: int,
    total: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[int]]:
    """Draw scenes, and pair each with the names of its stickers and with as many other names.

    Returns:
        The cosines, whether the name is in the scene, and the number of the scene, of each pair.
    """
    texts = explainer.text.encode([concept.name for concept in sprites.concepts])
    generator = np.random.default_rng(seed)
    cosines: list[float] = []
    shown: list[bool] = []
    numbers: list[int] = []
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
    return np.array(cosines), np.array(shown), numbers


def fit_presence(explainer: Explainer, sprites: Sprites, total: int) -> PresenceCalibration:
    """Fit the calibration on scenes of training, in varied style.

    Args:
        explainer: The engine with the exported model.
        sprites: The rendered art.
        total: Number of scenes.
    """
    identity = ModelIdentity.of_loaded(ModelReference.of("starter"), None)
    recipe = dataclasses.replace(evaluation_recipe(_COUNTS), vary_style=True)
    cosines, shown, numbers = _pairs(explainer, sprites, TRAINING_STYLES, recipe, _FIT_SEED, total)
    source = f"{total:,} composed scenes in the styles of training, and names of concepts"
    return fit(cosines, shown, numbers, source=source, identity=identity)


def reliability(
    explainer: Explainer, sprites: Sprites, styles: Mapping[str, float], total: int
) -> Reliability:
    """Measure the shipped calibration on scenes of some styles, without style variation."""
    calibration = built_in(ModelReference.of("starter"))
    if calibration is None:
        raise FileNotFoundError("the starter's presence calibration is missing")
    cosines, shown, _ = _pairs(
        explainer, sprites, styles, evaluation_recipe(_COUNTS), _MEASURE_SEED, total
    )
    found = np.array([calibration.probability(each) for each in cosines])
    return Reliability(
        brier=brier_score(found, shown),
        calibration_error=expected_calibration_error(found, shown),
        right=float(np.mean((found > 0.5) == shown)),
        pairs=len(shown),
    )
