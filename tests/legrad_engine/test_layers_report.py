"""The report of the layers: similarities, ranks, and the served similarity as a sum."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError
from legrad_engine.layers_report import LayersReport, report_layers
from tests.support.architectures import STANDARD, seeded_explainer, tokenizer
from tests.support.explicit_dense import ExplicitOpenClip
from tests.support.shrunk_catalogue import shrunk_model
from tests.support.traced_maps import unit_vectors

PROMPTS = ["a cat", "two dogs on a sofa", "red"]


def pictures(count: int = 2) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(count)]


def reports(explainer: Explainer, targets: Any, **options: Any) -> list[LayersReport]:
    prepared = [explainer.prepare(picture, fit="native") for picture in pictures(len(targets))]
    resolved = explainer.resolver.resolve(targets, len(prepared), None, None)
    return report_layers(explainer, prepared, resolved, **options)


@pytest.mark.parametrize(
    "variant", ["class token", "average, norm before pooling", "average, norm after pooling"]
)
def test_similarities_are_those_of_the_models_own_head_after_each_block(variant: str) -> None:
    explainer = seeded_explainer(dtype=torch.float64, **STANDARD[variant])
    targets = [unit_vectors(2, 24), unit_vectors(3, 24, seed=1)]
    found = reports(explainer, targets)
    explicit = ExplicitOpenClip(explainer.model.visual)
    for picture, own, report in zip(pictures(), targets, found, strict=True):
        prepared = explainer.prepare(picture, fit="native")
        x = explicit.tokens(explainer.input_of([prepared]))
        for index in range(explicit.depth):
            x = explicit.run(x, index, index + 1)
            expected = own @ F.normalize(explicit.features(x), dim=-1)[0]
            np.testing.assert_allclose(report.similarities[:, index], expected, atol=1e-6)
        (explanation,) = explainer.explain(picture, own, fit="native")
        np.testing.assert_allclose(report.similarities[:, -1], explanation.similarities, atol=1e-6)
        assert report.terms is None
        assert report.gap is None


def test_the_most_similar_target_of_each_block_has_rank_1_and_equal_ones_share_a_rank() -> None:
    vectors = unit_vectors(4, 24).float()
    (report,) = reports(seeded_explainer(), [vectors[[0, 1, 1, 2, 3]]])
    assert report.ranks.shape == report.similarities.shape == (5, 3)
    for similarities, ranks in zip(report.similarities.T, report.ranks.T, strict=True):
        assert ranks[similarities.argmax()] == 1
        assert ranks[1] == ranks[2]
        for value, rank in zip(similarities, ranks, strict=True):
            assert rank == 1 + (similarities > value).sum()


@pytest.mark.parametrize(
    "variant", ["class token", "average, norm before pooling", "average, norm after pooling"]
)
def test_the_terms_sum_to_the_served_similarity(variant: str) -> None:
    explainer = seeded_explainer(**STANDARD[variant])
    targets = [unit_vectors(2, 24).float(), unit_vectors(3, 24, seed=1).float()]
    plain = reports(explainer, targets)
    for picture, own, report, without in zip(
        pictures(), targets, reports(explainer, targets, terms=True), plain, strict=True
    ):
        terms = report.terms
        assert terms is not None
        assert report.gap is not None
        np.testing.assert_allclose(report.similarities, without.similarities, atol=1e-6)
        (explanation,) = explainer.explain(picture, own, fit="native", method="textspan")
        np.testing.assert_allclose(terms.total, explanation.similarities, atol=1e-5)
        assert np.abs(report.gap).max() <= 1e-5
        assert terms.patches.shape == terms.prefix.shape == (len(own), 3, 2)
        assert terms.blocks.shape == (len(own), 3)
        # The patches' effects are the map of the method, summed.
        np.testing.assert_allclose(
            terms.patches.sum((1, 2)), explanation.maps.sum((1, 2)), atol=1e-5
        )


def test_a_pooler_has_similarities_after_each_block_but_no_terms() -> None:
    model = shrunk_model("ViT-B-16-SigLIP", dtype=torch.float32)
    explainer = Explainer(model, tokenizer(), name="pooled")
    prepared = [explainer.prepare(picture) for picture in pictures()]
    targets = unit_vectors(2, explainer.tower.embedding_size).float()
    resolved = explainer.resolver.resolve(targets, 2, None, None)
    found = report_layers(explainer, prepared, resolved)
    served = [each.similarities for each in explainer.explain(pictures(), targets)]
    for report, similarities in zip(found, served, strict=True):
        np.testing.assert_allclose(report.similarities[:, -1], similarities, atol=1e-6)
    with pytest.raises(InvalidOptionError, match="attentional pooler"):
        report_layers(explainer, prepared, resolved, terms=True)


def test_pictures_of_several_input_sizes_are_refused() -> None:
    explainer = seeded_explainer()
    (picture,) = pictures(1)
    prepared = [explainer.prepare(picture, fit="native"), explainer.prepare(picture)]
    resolved = explainer.resolver.resolve(PROMPTS, 2, None, None)
    with pytest.raises(InvalidOptionError, match="one input size"):
        report_layers(explainer, prepared, resolved)
