"""Loss of the score without the warmest, the coldest and a random fifth; and a flip."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.baselines import generator_of
from legrad_engine.evaluation.metrics.perturbation import order_of
from legrad_engine.evaluation.metrics.ranking import spearman
from legrad_engine.images.geometry import Geometry
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.measurements.base import Subjects
from legrad_engine.measurements.trust.levels import Removal, TrustScore
from legrad_engine.measurements.trust.removing import (
    Reduced,
    content_patches,
    removal_of,
    score_of,
    scores_without,
    whole_scores,
)

SHARE = 0.2
_LEAST_PATCHES = 2


@dataclass(frozen=True, slots=True)
class Perturbation:
    """How the score of one target follows its map.

    Attributes:
        score: the score that is followed.
        removal: how patches are removed.
        warmest: score lost without the warmest fifth of the patches; below 0 if it rises.
        coldest: score lost without the coldest fifth.
        random: score lost without a random fifth: one draw, the same for all targets and for all
            pictures of one patch grid.
        flip_agreement: Spearman's correlation of the map with that of the mirrored picture,
            mirrored back; None for a constant map.
    """

    score: TrustScore
    removal: Removal
    warmest: float
    coldest: float
    random: float
    flip_agreement: float | None


def random_order(geometry: Geometry) -> NDArray[np.intp]:
    """Return the patches that show the picture in a random order, seeded by their positions."""
    patches = content_patches(geometry)
    seed = (*geometry.grid, int(patches[0]), len(patches))
    return generator_of("trust", *map(str, seed)).permutation(patches)


def warmest_first(heatmap: NDArray[np.floating], geometry: Geometry) -> NDArray[np.intp]:
    """Return the patches that show the picture, warmest first; equal ones in reading order."""
    patches = content_patches(geometry)
    return patches[order_of(heatmap.ravel()[patches])]


def without(image: int, patches: NDArray[np.intp]) -> Reduced:
    """Return a picture without some patches."""
    return Reduced(image, tuple(np.sort(patches).tolist()))


def can_be_perturbed(geometry: Geometry) -> bool:
    """Return whether a picture has enough patches to remove some and keep others."""
    return len(content_patches(geometry)) >= _LEAST_PATCHES


def measure_perturbation(subjects: Subjects) -> list[list[Perturbation] | None]:
    """Measure every target of every picture; None for a picture of a single patch."""
    flipped = _flipped_maps(subjects)
    fifths = [_fifths(subjects, image) for image in range(len(subjects))]
    scores = scores_without(
        subjects, [each for rows in fifths for three in rows or () for each in three]
    )
    whole = whole_scores(subjects)
    removal = removal_of(subjects.explainer.tower)

    def measured(image: int, row: int, three: tuple[Reduced, Reduced, Reduced]) -> Perturbation:
        warmest, coldest, random = (float(whole[image][row] - scores[each][row]) for each in three)
        return Perturbation(
            score_of(subjects, image, row),
            removal,
            warmest,
            coldest,
            random,
            spearman(
                _content(subjects.explanations[image].maps[row], subjects, image),
                _content(flipped[image][row], subjects, image),
            ),
        )

    return [
        None if rows is None else [measured(image, row, three) for row, three in enumerate(rows)]
        for image, rows in enumerate(fifths)
    ]


def _fifths(subjects: Subjects, image: int) -> list[tuple[Reduced, Reduced, Reduced]] | None:
    """Return each target's picture without the warmest, the coldest and a random fifth."""
    geometry = subjects.explanations[image].geometry
    if not can_be_perturbed(geometry):
        return None
    drawn = random_order(geometry)
    count = max(1, round(SHARE * len(drawn)))
    rows = []
    for heatmap in subjects.explanations[image].maps:
        warm, cold = warmest_first(heatmap, geometry), warmest_first(-heatmap, geometry)
        rows.append(
            (
                without(image, warm[:count]),
                without(image, cold[:count]),
                without(image, drawn[:count]),
            )
        )
    return rows


def _flipped_maps(subjects: Subjects) -> Sequence[NDArray[np.floating]]:
    """Return each picture's maps of the mirrored picture, mirrored back."""
    explainer, trace = subjects.explainer, subjects.trace
    mirrored = explainer.trace(
        [_mirrored(each) for each in subjects.pictures],
        method=trace.method,
        layers=trace.layers,
        score=trace.score,
    )
    found = explainer.launch_attribution(mirrored, subjects.resolved).finish()
    return [each.maps[:, :, ::-1] for each in found]


def _mirrored(picture: PreparedImage) -> PreparedImage:
    if picture.pixels.dtype != np.uint8:
        return replace(picture, pixels=np.ascontiguousarray(picture.pixels[..., ::-1]))
    width, _ = picture.geometry.input_size
    left, top, right, bottom = picture.geometry.content_box
    geometry = replace(picture.geometry, content_box=(width - right, top, width - left, bottom))
    return PreparedImage(np.ascontiguousarray(picture.pixels[:, ::-1]), geometry)


def _content(heatmap: NDArray[np.floating], subjects: Subjects, image: int) -> NDArray[np.floating]:
    return heatmap[subjects.explanations[image].geometry.content_cells]
