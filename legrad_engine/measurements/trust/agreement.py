"""Agreement of maps, and the gradient behind them: measured without a further forward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from legrad_engine.evaluation.metrics.ranking import spearman
from legrad_engine.legrad.rectified_product import sum_product
from legrad_engine.measurements.base import Subjects
from legrad_engine.methods.registry import find_method
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.targets.text import NoText

NEUTRAL_PROMPT = "a photo"
"""A prompt that most pictures fit: the map of a target should differ from its map."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the map of one target agrees with other maps.

    Correlations are Spearman's, -1 to 1, over the patches that show the picture: those of padding
    are alike in all maps.

    Attributes:
        blocks: mean correlation between the maps of each pair of explained blocks; None with one
            block, or where the method has no map of single blocks.
        neutral: correlation with the map of :data:`NEUTRAL_PROMPT`, corrected by the same
            negatives; None for models without texts, and methods whose map does not depend on the
            target, or also on the other targets of the picture if there are any.
        others: highest correlation with the map of another target of the picture; None without
            one, and where the map does not depend on the target alone.
        positive_share: share of positive values in the absolute sum of the gradient with respect
            to the attention, 0 to 1; None for methods that rectify no such gradient.
        margin: similarity less the highest similarity of another target; None without one.
        neutral_margin: similarity less that of the neutral prompt; None for models without texts.
    """

    blocks: float | None
    neutral: float | None
    others: float | None
    positive_share: float | None
    margin: float | None
    neutral_margin: float | None


def measure_agreement(subjects: Subjects) -> list[list[Agreement]]:
    """Measure the agreement of every target's map of every picture."""
    of_blocks = _maps_of_blocks(subjects)
    neutral = _neutral(subjects)
    shares = _positive_shares(subjects)
    method = find_method(subjects.trace.method, subjects.explainer.tower)
    found = []
    for image, explanation in enumerate(subjects.explanations):
        cells = explanation.geometry.content_cells
        similarities = explanation.similarities
        maps = explanation.maps[:, *cells]
        # Maps that are made of each other agree or not whatever the picture shows.
        comparable = method.targeted and not (method.compares_targets and len(maps) > 1)
        rows = []
        for row in range(len(similarities)):
            others = [other for other in range(len(similarities)) if other != row]
            rows.append(
                Agreement(
                    blocks=_mean(
                        spearman(one[row][cells], other[row][cells])
                        for one, other in combinations(of_blocks[image], 2)
                    ),
                    neutral=None
                    if neutral is None or not comparable
                    else spearman(maps[row], neutral.maps[image][cells]),
                    others=_highest(spearman(maps[row], maps[other]) for other in others)
                    if comparable
                    else None,
                    positive_share=None if shares is None else shares[image][row],
                    margin=float(similarities[row] - max(similarities[other] for other in others))
                    if others
                    else None,
                    neutral_margin=None
                    if neutral is None
                    else float(similarities[row] - neutral.similarities[image]),
                )
            )
        found.append(rows)
    return found


def _maps_of_blocks(subjects: Subjects) -> list[list[NDArray[np.floating]]]:
    """Return for each picture the maps ``[P, rows, columns]`` of each explained block."""
    trace = subjects.trace
    if len(trace.layers) == 1 or len(trace.blocks) != len(trace.layers):
        return [[] for _ in range(len(subjects))]
    of_blocks = [
        subjects.explainer.launch_attribution(
            trace.select_layers([layer]), subjects.resolved
        ).finish()
        for layer in trace.layers
    ]
    return [[each[image].maps for each in of_blocks] for image in range(len(subjects))]


@dataclass(frozen=True, slots=True)
class _Neutral:
    """The neutral prompt of each picture: its map and its similarity."""

    maps: Sequence[NDArray[np.floating]]
    similarities: Sequence[float]


def _neutral(subjects: Subjects) -> _Neutral | None:
    explainer = subjects.explainer
    if isinstance(explainer.text, NoText):
        return None
    (neutral,) = explainer.resolver.resolve([NEUTRAL_PROMPT], 1)
    resolved = [
        replace(neutral, negatives=each.negatives, negative_vectors=each.negative_vectors)
        for each in subjects.resolved
    ]
    found = explainer.launch_attribution(subjects.trace, resolved).finish()
    return _Neutral(
        [each.maps[0] for each in found], [float(each.similarities[0]) for each in found]
    )


def _positive_shares(subjects: Subjects) -> list[list[float | None]] | None:
    """Compute P / (P + N) of every target: P and N sum the gradient's positive and negative part.

    A rectifying method gives P as the sum of its map. The same method without rectification gives
    P - N, which needs no product of queries and keys.
    """
    trace, explainer = subjects.trace, subjects.explainer
    method = find_method(trace.method, explainer.tower)
    if not method.rectified:
        return None
    width, height = trace.geometries[0].input_size
    tower = explainer.tower.at((height, width))
    head = explainer.tower.score_head(trace.score)
    plain = [_without_negatives(each) for each in subjects.resolved]
    corrected = any(each.negatives is not None for each in subjects.resolved)
    explanations = (
        explainer.launch_attribution(trace, plain).finish() if corrected else subjects.explanations
    )
    shares: list[list[float | None]] = [[] for _ in plain]
    for images in _of_equal_length(plain):
        part = trace if len(images) == len(trace) else trace.select(images)
        vectors = torch.stack([plain[image].vectors for image in images])
        parts = replace(explainer.parts, product=sum_product)
        signed = method.maps(tower, part.blocks, part.layers, head, vectors, parts)
        for image, values in zip(images, signed, strict=True):
            geometry = trace.geometries[image]
            cells = geometry.content_cells
            sums = values.unflatten(-1, geometry.grid)[:, *cells].sum((1, 2)).tolist()
            positive = explanations[image].maps[:, *cells].sum((1, 2), dtype=np.float64).tolist()
            shares[image] = [
                _share(each, total) for each, total in zip(positive, sums, strict=True)
            ]
    return shares


def _share(positive: float, signed: float) -> float | None:
    absolute = 2 * positive - signed
    return min(1.0, positive / absolute) if absolute > 0 else None


def _without_negatives(resolved: ResolvedTargets) -> ResolvedTargets:
    return replace(resolved, negatives=None, negative_vectors=resolved.negative_vectors[:0])


def _of_equal_length(resolved: Sequence[ResolvedTargets]) -> Iterator[list[int]]:
    for count in sorted({len(each) for each in resolved}):
        yield [image for image, each in enumerate(resolved) if len(each) == count]


def _mean(values: Iterator[float | None]) -> float | None:
    found = [each for each in values if each is not None]
    return sum(found) / len(found) if found else None


def _highest(values: Iterator[float | None]) -> float | None:
    return max((each for each in values if each is not None), default=None)
