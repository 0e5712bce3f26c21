"""Measurement of a batch of explained pictures."""

from collections.abc import Mapping, Sequence

import torch

from legrad_engine.errors import LegradError
from legrad_engine.explainer import Explainer
from legrad_engine.explanation import Explanation
from legrad_engine.families import Score
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.layers import Layers
from legrad_engine.measurements.base import Asked, Measured, Measurement, Subjects
from legrad_engine.methods import DEFAULT_METHOD
from legrad_engine.targets import Target
from legrad_engine.targets.negatives import Negatives
from legrad_engine.targets.questions import Question
from legrad_engine.targets.templates import Templates

_IMAGES_PER_PASS = 16

Results = Mapping[str, Measured] | LegradError
"""The results of one picture by the measurements' names, or the error of one of them."""


def explain_and_measure(
    explainer: Explainer,
    images: Sequence[PreparedImage],
    targets: Sequence[Target | str],
    measurements: Sequence[Measurement],
    *,
    method: str = DEFAULT_METHOD,
    layers: Layers | None = None,
    score: Score | None = None,
    templates: Templates = None,
    negatives: Negatives | None = None,
) -> list[tuple[Explanation, Results]]:
    """Explain and measure pictures of one input size, with the same targets.

    Args:
        explainer: the model.
        images: at least one, from :meth:`Explainer.prepare`.
        targets: strings or target objects.
        measurements: the wanted measurements.
        method: see :meth:`Explainer.trace`, as all options below.
        layers: see :meth:`Explainer.resolve_layers`.
        score: the explained score.
        templates: templates of texts.
        negatives: targets that the maps must not show.

    Raises:
        LegradError: the model does not take a target or an option, or the targets cannot be
            measured.
    """
    question = Question.of(targets, negatives)
    trace = explainer.trace(images, method=method, layers=layers, score=score)
    asked = Asked(explainer, explainer.method(method), "mean", trace.layers, trace.score, question)
    for each in measurements:
        each.check(asked)
    resolved = explainer.resolver.resolve(targets, len(images), templates, negatives)
    explanations = explainer.launch_attribution(trace, resolved).finish()
    subjects = Subjects(
        explainer,
        trace,
        resolved,
        [question] * len(images),
        templates,
        explanations,
        images,
        images_per_pass=max(len(images), _IMAGES_PER_PASS),
    )
    results = measure_batch([measurements] * len(images), subjects)
    return list(zip(explanations, results, strict=True))


@torch.no_grad()
def measure_batch(asked: Sequence[Sequence[Measurement]], subjects: Subjects) -> list[Results]:
    """Compute the measurements of pictures.

    Nothing is measured on maps that are not finite: such a picture has no results.

    Args:
        asked: the measurements of each picture; those in the same place are of one bucket.
        subjects: the pictures.

    Returns:
        One entry for each picture.
    """
    results: list[dict[str, Measured] | LegradError] = [{} for _ in asked]
    finite = [place for place, each in enumerate(subjects.explanations) if each.is_finite]
    if not finite:
        return list(results)
    subjects = subjects.select(finite)
    for same_place in zip(*(asked[place] for place in finite), strict=True):
        first = same_place[0]
        found = type(first).measure(same_place, subjects)
        for place, each in zip(finite, found, strict=True):
            result = results[place]
            if isinstance(each, LegradError):
                results[place] = each
            elif not isinstance(result, LegradError):
                result[first.name] = each
    return list(results)
