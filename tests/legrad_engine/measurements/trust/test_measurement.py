"""Removed fifths, mirrored pictures and curves, from the engine's measurement `trust`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError
from legrad_engine.evaluation.metrics.saco import saco
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.measurements.base import Asked, Subjects
from legrad_engine.measurements.trust.measurement import TargetTrust, Trust
from legrad_engine.measurements.trust.perturbation import random_order
from legrad_engine.measurements.trust.removing import Reduced, scores_without
from legrad_engine.methods.registry import methods
from legrad_engine.targets.questions import Question
from tests.support.architectures import seeded_explainer
from tests.support.measured_trust import PROMPTS, mirrored, prepared, trust_of

STEPS = [step / 10 for step in range(1, 10)]


def scores_of(
    explainer: Explainer, image: PreparedImage, removed: list[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """Return scores ``[removals, P]`` of one picture, one removal at a time."""
    trace = explainer.trace([image])
    question, resolved = Question.of(PROMPTS), explainer.resolver.resolve(PROMPTS, 1)
    subjects = Subjects(explainer, trace, resolved, [question], None, [], [image], 1)
    asked = [Reduced(0, tuple(sorted(each.tolist()))) for each in removed]
    with torch.no_grad():
        return np.stack([scores_without(subjects, [each])[each] for each in asked])


def test_the_warmest_the_coldest_and_a_random_fifth_are_removed() -> None:
    explainer = seeded_explainer(dtype=torch.float64, image_size=80)
    (image,) = prepared(explainer)
    ((explanation, rows),) = trust_of(explainer, [image], "quick")
    drawn = random_order(explanation.geometry)[:5]
    assert len(set(drawn.tolist())) == 5
    for row, found in enumerate(rows):
        order = np.argsort(explanation.maps[row].ravel(), kind="stable")
        (whole, *without) = scores_of(explainer, image, [order[:0], order[-5:], order[:5], drawn])
        measured = found.perturbation
        assert measured is not None
        assert found.curves is None
        assert (measured.score, measured.removal) == ("similarity", "dropped")
        lost = [whole[row] - each[row] for each in without]
        assert [measured.warmest, measured.coldest, measured.random] == pytest.approx(
            lost, abs=1e-12
        )
        assert max(map(abs, lost)) > 1e-5


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_map_is_compared_with_that_of_the_mirrored_picture(fit: Any) -> None:
    explainer = seeded_explainer()
    (image,) = prepared(explainer, 3) if fit == "squash" else [padded(explainer)]
    ((explanation, rows),) = trust_of(explainer, [image], "quick")
    mirror = explainer.prepare(mirrored(image), fit=fit)
    assert mirror.geometry.content_box == image.geometry.content_box
    (other,) = explainer.attribute(explainer.trace([mirror]), PROMPTS)
    cells = explanation.geometry.content_cells
    for row, found in enumerate(rows):
        expected = spearmanr(
            explanation.maps[row][cells].ravel(), other.maps[row][:, ::-1][cells].ravel()
        ).statistic
        assert found.perturbation is not None
        assert found.perturbation.flip_agreement == pytest.approx(expected)


def padded(explainer: Explainer) -> PreparedImage:
    (image,) = prepared(seeded_explainer(image_size=(32, 64)), 3)
    return explainer.prepare(mirrored(image), fit="pad")


def test_curves_follow_the_order_of_the_map_and_of_chance() -> None:
    explainer = seeded_explainer(dtype=torch.float64)
    (image,) = prepared(explainer)
    ((explanation, rows),) = trust_of(explainer, [image], "curves")
    drawn = random_order(explanation.geometry)

    def areas(order: NDArray[np.intp], row: int) -> tuple[float, float]:
        counts = [int(share * 16 + 1e-9) for share in STEPS]
        removed = [order[:0], *(order[:count] for count in counts)]
        shown = [*(order[::-1][:count] for count in counts[::-1]), order[:0]]
        deletion, insertion = (
            scores_of(explainer, image, each)[:, row] for each in (removed, shown)
        )
        return float(np.trapezoid(deletion, dx=0.1)), float(np.trapezoid(insertion, dx=0.1))

    for row, found in enumerate(rows):
        heatmap = explanation.maps[row].ravel()
        order = np.argsort(-heatmap, kind="stable")
        deletion, insertion = areas(order, row)
        by_chance, _ = areas(drawn, row)
        _, shown_by_chance = areas(drawn[::-1], row)
        groups = np.array_split(order, 10)
        whole, *without = scores_of(explainer, image, [order[:0], *groups])
        curves = found.curves
        assert curves is not None
        assert curves.deletion == pytest.approx(deletion - by_chance, abs=1e-9)
        assert curves.insertion == pytest.approx(insertion - shown_by_chance, abs=1e-9)
        assert curves.saco == pytest.approx(
            saco(
                [float(heatmap[group].mean()) for group in groups],
                [float(whole[row] - each[row]) for each in without],
            )
        )


def test_a_batch_of_pictures_equals_one_at_a_time() -> None:
    explainer = seeded_explainer(dtype=torch.float64)
    images = prepared(explainer, 1, 2, 3)
    together = [rows for _, rows in trust_of(explainer, images, "curves")]
    alone = [trust_of(explainer, [image], "curves")[0][1] for image in images]
    for one, other in zip(together, alone, strict=True):
        for first, second in zip(one, other, strict=True):
            same(first, second)


def same(first: TargetTrust, second: TargetTrust) -> None:
    for part in ("agreement", "perturbation", "curves"):
        one, other = getattr(first, part), getattr(second, part)
        for name in one.__dataclass_fields__:
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9), name


@pytest.mark.parametrize("name", [method.name for method in methods()])
def test_every_method_is_measured(name: str) -> None:
    explainer = seeded_explainer()
    if name not in [method.name for method in explainer.methods]:
        pytest.skip("this model cannot have it")
    ((_, rows),) = trust_of(explainer, prepared(explainer), "quick", method=name)
    removed = [each.perturbation for each in rows]
    assert all(each is not None and each.warmest != each.coldest for each in removed)


def test_patches_of_the_padding_are_not_removed() -> None:
    explainer = seeded_explainer()
    image = padded(explainer)
    ((explanation, _),) = trust_of(explainer, [image], "curves")
    assert sorted(random_order(explanation.geometry).tolist()) == list(range(4, 12))


def test_a_picture_of_one_patch_has_no_perturbation() -> None:
    explainer = seeded_explainer(image_size=16)
    ((_, rows),) = trust_of(explainer, prepared(explainer), "curves")
    assert [(each.perturbation, each.curves) for each in rows] == [(None, None)] * 2


def test_the_cost_counts_passes_orders_and_targets() -> None:
    explainer = seeded_explainer()

    def work(level: Any, targets: int, method: str = "legrad") -> float:
        chosen = explainer.method(method)
        layers = chosen.layers(explainer.tower, None)
        question = Question.of(["a cat"] * targets)
        return Trust(level).work(Asked(explainer, chosen, "mean", layers, "mean", question))

    free, quick, curves = (work(level, 1) for level in ("free", "quick", "curves"))
    assert free < 2
    assert 3.4 < quick - free < 3.8
    assert 20 < curves - quick < 25
    assert work("quick", 8) - work("free", 8) < 8 * (quick - free)
    assert work("quick", 8, "rollout") - work("quick", 1, "rollout") < 0.5


def test_maps_of_heads_are_refused() -> None:
    explainer = seeded_explainer()
    method = explainer.method("raw-attention")
    asked = Asked(explainer, method, "each", (2,), "mean", Question.of(["a cat"]))
    with pytest.raises(InvalidOptionError, match="leave one of them out") as caught:
        Trust("free").check(asked)
    assert caught.value.field == "trust"
    Trust("free").check(replace(asked, heads="mean"))


@pytest.mark.parametrize("level", ["full", "QUICK", None])
def test_an_unknown_level_is_refused(level: Any) -> None:
    with pytest.raises(InvalidOptionError, match="use one of free, quick, curves") as refusal:
        Trust(level)
    assert refusal.value.field == "trust"
