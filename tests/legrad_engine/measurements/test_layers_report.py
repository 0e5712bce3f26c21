"""The measurement `layers_report`: numbers of each target, their check, their price."""

from typing import Any

import numpy as np
import pytest

from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError
from legrad_engine.layers_report import report_layers
from legrad_engine.measurements.base import Asked, Subjects
from legrad_engine.measurements.batches import measure_batch
from legrad_engine.measurements.layers_report import LayersReportMeasurement, TargetLayers
from legrad_engine.targets.questions import Question
from tests.support.architectures import seeded_explainer, tokenizer
from tests.support.pictures import picture
from tests.support.shrunk_catalogue import shrunk_model
from tests.support.traced_maps import unit_vectors

PROMPTS = ["a cat", "two dogs on a sofa"]


def subjects_of(explainer: Explainer, method: str, *, images_per_pass: int) -> Subjects:
    """Explain three pictures as the worker does."""
    prepared = [explainer.prepare(picture(60, 40, seed=seed)) for seed in range(3)]
    trace = explainer.trace(
        prepared,
        method=method,
        layers=explainer.resolve_layers(None, method),
        score=explainer.resolve_score(None, method),
    )
    vectors = unit_vectors(2, explainer.tower.embedding_size).float()
    resolved = explainer.resolver.resolve(vectors, 3, None, None)
    return Subjects(
        explainer=explainer,
        trace=trace,
        resolved=resolved,
        questions=[Question.of(PROMPTS)] * 3,
        templates=None,
        explanations=explainer.attribute(trace, vectors),
        prepared=prepared,
        images_per_pass=images_per_pass,
    )


def layers_of(subjects: Subjects, *, terms: bool) -> list[list[TargetLayers]]:
    found = []
    measurement = LayersReportMeasurement(terms)
    for results in measure_batch([[measurement]] * len(subjects), subjects):
        assert not isinstance(results, Exception)
        found.append(list(results["layers_report"].targets or ()))
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("images_per_pass", [1, 2, 8])
def test_every_picture_has_its_own_report_in_passes_of_any_size(images_per_pass: int) -> None:
    explainer = seeded_explainer()
    subjects = subjects_of(explainer, "legrad", images_per_pass=images_per_pass)
    found = layers_of(subjects, terms=False)
    assert [len(targets) for targets in found] == [2, 2, 2]
    for place, targets in enumerate(found):
        (alone,) = report_layers(explainer, [subjects.pictures[place]], [subjects.resolved[place]])
        for row, target in enumerate(targets):
            np.testing.assert_allclose(target.similarities, alone.similarities[row], atol=1e-6)
            assert target.ranks == alone.ranks[row].tolist()
            assert target.direct_effects is None


def test_the_gap_is_that_to_the_served_similarity() -> None:
    subjects = subjects_of(seeded_explainer(), "textspan", images_per_pass=8)
    for targets, explanation in zip(
        layers_of(subjects, terms=True), subjects.explanations, strict=True
    ):
        for target, served in zip(targets, explanation.similarities, strict=True):
            effects = target.direct_effects
            assert effects is not None
            assert effects.sum == pytest.approx(served, abs=1e-5)
            assert effects.gap == pytest.approx(effects.sum - served, abs=1e-7)
            parts = zip(
                effects.blocks, effects.heads, effects.attention_biases, effects.mlps, strict=True
            )
            for block, heads, biases, mlp in parts:
                assert block == pytest.approx(sum(heads) + biases + mlp, abs=1e-6)
            total = sum(effects.blocks) + effects.input + effects.output_biases
            assert total == pytest.approx(effects.sum, abs=1e-6)
    # Another similarity is told as a gap.
    wrong = [e.similarities + np.float32(0.5) for e in subjects.explanations]
    for explanation, values in zip(subjects.explanations, wrong, strict=True):
        explanation.similarities[:] = values
    for targets in layers_of(subjects, terms=True):
        for target in targets:
            assert target.direct_effects is not None
            assert target.direct_effects.gap == pytest.approx(-0.5, abs=1e-5)


def asked_of(explainer: Explainer, method: str = "legrad", **options: Any) -> Asked:
    chosen = explainer.method(method)
    layers, score = chosen.layers(explainer.tower, None), chosen.score(explainer.tower, None)
    heads = options.pop("heads", "mean")
    return Asked(explainer, chosen, heads, layers, score, Question.of(PROMPTS))


def test_it_costs_a_forward_pass_and_the_head_after_every_block() -> None:
    explainer = seeded_explainer()
    plain = LayersReportMeasurement(terms=False).work(asked_of(explainer))
    assert 1 < plain < 1.1
    pooled = Explainer(shrunk_model("ViT-B-16-SigLIP"), tokenizer(), name="pooled")
    assert plain < LayersReportMeasurement(terms=False).work(asked_of(pooled)) < 1.3
    # A norm before the average takes a pass of its own.
    averaged = seeded_explainer(pool_type="avg")
    terms = LayersReportMeasurement(terms=True)
    assert plain < terms.work(asked_of(explainer, "textspan")) < 1.5
    assert 2 < terms.work(asked_of(averaged, "textspan")) < 2.5


def test_maps_of_single_heads_are_refused() -> None:
    asked = asked_of(seeded_explainer(), "raw-attention", heads="each")
    with pytest.raises(InvalidOptionError, match="leave one of them out") as refusal:
        LayersReportMeasurement(terms=False).check(asked)
    assert refusal.value.field == "layers_report"
