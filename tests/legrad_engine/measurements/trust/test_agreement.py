"""Agreement of maps, the share of positive gradient, and margins of similarity."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr

from legrad_engine import Explainer, TextTarget
from legrad_engine.measurements.trust.agreement import NEUTRAL_PROMPT, Agreement
from legrad_engine.methods.registry import methods
from legrad_engine.targets.negatives import Negatives
from tests.support.architectures import CUSTOM, STANDARD, seeded_explainer, tokenizer
from tests.support.explicit_legrad import explicit_maps
from tests.support.measured_trust import PROMPTS, prepared, trust_of
from tests.support.pictures import picture
from tests.support.shrunk_catalogue import shrunk_model


def test_maps_of_blocks_prompts_and_the_neutral_prompt_are_compared_by_their_ranks() -> None:
    explainer = seeded_explainer()
    (image,) = prepared(explainer)
    ((explanation, (cat, dogs)),) = trust_of(explainer, [image], "free", layers=3)
    asked = [*PROMPTS, NEUTRAL_PROMPT]
    whole = explainer.trace([image], layers=3)
    blocks = [
        explainer.attribute(whole.select_layers([index]), asked)[0].maps for index in range(3)
    ]
    (all_maps,) = (each.maps for each in explainer.attribute(whole, asked))

    def rank(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
        return float(spearmanr(one.ravel(), other.ravel()).statistic)

    for row, found in enumerate((cat.agreement, dogs.agreement)):
        pairs = [rank(blocks[a][row], blocks[b][row]) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert found.blocks == pytest.approx(np.mean(pairs))
        assert found.neutral == pytest.approx(rank(all_maps[row], all_maps[2]))
        assert found.others == pytest.approx(rank(all_maps[0], all_maps[1]))
    (neutral,) = explainer.attribute(whole, [NEUTRAL_PROMPT])
    one, other = explanation.similarities
    assert cat.agreement.margin == pytest.approx(one - other)
    assert dogs.agreement.margin == pytest.approx(other - one)
    assert cat.agreement.neutral_margin == pytest.approx(one - neutral.similarities[0], abs=1e-6)


def test_patches_of_padding_do_not_count() -> None:
    explainer = seeded_explainer()
    image = explainer.prepare(picture(96, 24, 1), fit="pad")
    rows, columns = image.geometry.content_cells
    assert (rows.stop - rows.start, columns.stop - columns.start) == (1, 4)
    ((_, (cat, _)),) = trust_of(explainer, [image], "free", layers=3)
    trace = explainer.trace([image], layers=3)
    (explanation,) = explainer.attribute(trace, [*PROMPTS, NEUTRAL_PROMPT])
    shown = explanation.maps[:, rows, columns].reshape(3, -1)

    def rank(one: int, other: int) -> float:
        return float(spearmanr(shown[one], shown[other]).statistic)

    assert cat.agreement.neutral == pytest.approx(rank(0, 2))
    assert cat.agreement.others == pytest.approx(rank(0, 1))


def test_one_target_and_one_block_have_nothing_to_be_compared_with() -> None:
    explainer = seeded_explainer()
    ((_, (only,)),) = trust_of(explainer, prepared(explainer), "free", ["a cat"], layers=1)
    found = only.agreement
    assert (found.blocks, found.others, found.margin) == (None, None, None)
    assert found.neutral is not None
    assert found.neutral_margin is not None


@pytest.mark.parametrize(
    "vision",
    [STANDARD["class token"], STANDARD["average, norm before pooling"], CUSTOM["custom block"]],
    ids=["closed form", "norm first", "general form"],
)
def test_positive_share_is_that_of_the_explicit_gradient(vision: dict[str, Any]) -> None:
    explainer = seeded_explainer(dtype=torch.float64, **vision)
    (image,) = prepared(explainer)
    ((_, rows),) = trust_of(explainer, [image], "free")
    vectors = explainer.text.encode(PROMPTS)
    pixels = explainer.input_of([image])[0]
    positive, absolute = (
        explicit_maps(
            explainer.model.get_submodule("visual"), pixels, vectors, (1, 2), part=part
        ).sum((1, 2))
        for part in (F.relu, torch.abs)
    )
    for row, found in enumerate(rows):
        share = found.agreement.positive_share
        assert share is not None
        assert share == pytest.approx(float(positive[row] / absolute[row]), rel=1e-9)
        assert 0.05 < share < 0.95


def test_negatives_change_maps_but_not_the_gradient_behind_them() -> None:
    explainer = seeded_explainer()
    images = prepared(explainer, 1, 2)
    plain = trust_of(explainer, images, "free")
    against = Negatives((TextTarget("a wall"),), weight=0.3)
    corrected = trust_of(explainer, images, "free", negatives=against)
    for (_, before), (_, after) in zip(plain, corrected, strict=True):
        for one, other in zip(before, after, strict=True):
            assert one.agreement.positive_share == pytest.approx(
                other.agreement.positive_share, rel=1e-5
            )
            assert one.agreement.others != other.agreement.others


def test_the_neutral_prompt_is_corrected_by_the_same_negatives() -> None:
    explainer = seeded_explainer()
    images = prepared(explainer)
    against = Negatives((TextTarget("a wall"),), weight=0.3)
    ((_, (only,)),) = trust_of(explainer, images, "free", [NEUTRAL_PROMPT], negatives=against)
    assert only.agreement.neutral == pytest.approx(1)


def test_maps_that_are_made_of_each_other_have_no_agreement() -> None:
    explainer = seeded_explainer()
    images = prepared(explainer)
    ((_, rows),) = trust_of(explainer, images, "free", method="clip-surgery")
    assert {(each.agreement.others, each.agreement.neutral) for each in rows} == {(None, None)}
    ((_, (alone,)),) = trust_of(explainer, images, "free", ["a cat"], method="clip-surgery")
    assert alone.agreement.neutral is not None


@pytest.mark.parametrize("name", [method.name for method in methods()])
def test_every_method_has_an_agreement(name: str) -> None:
    explainer = seeded_explainer()
    if name not in [method.name for method in explainer.methods]:
        pytest.skip("this model cannot have it")
    method = explainer.method(name)
    ((_, rows),) = trust_of(explainer, prepared(explainer), "free", method=name)
    for each in rows:
        found: Agreement = each.agreement
        comparable = method.targeted and not method.compares_targets
        assert (found.neutral is None) is (found.others is None) is not comparable
        assert (found.positive_share is None) is not method.rectified
        assert found.margin is not None


def test_a_pooler_has_an_agreement() -> None:
    explainer = Explainer(shrunk_model("ViT-B-16-SigLIP"), tokenizer(), name="pooled")
    ((_, rows),) = trust_of(explainer, prepared(explainer), "free")
    assert all(0 < (each.agreement.positive_share or 0) < 1 for each in rows)
    assert rows[0].agreement.blocks is not None
