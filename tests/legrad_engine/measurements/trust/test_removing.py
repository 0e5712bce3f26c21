"""Scores without patches: dropped tokens and masked pixels, against models run in full."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from legrad_engine import ClassTarget, EmbeddingTarget, Explainer, TextTarget
from legrad_engine.measurements.base import Subjects
from legrad_engine.measurements.trust.removing import (
    Reduced,
    content_patches,
    removal_of,
    score_of,
    scores_without,
    whole_scores,
)
from legrad_engine.models.image_model import ImageModel
from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.targets.questions import Question
from tests.support.architectures import STANDARD, seeded_explainer
from tests.support.explicit_dense import ExplicitOpenClip
from tests.support.measured_trust import prepared
from tests.support.plain_timm import MODELS, plain_model

REMOVED = [(1, 2, 7), (0, 3, 9), (15,)]
MASKING = ("relpos", "beit", "swin", "fastvit")


class HiddenKeys(TorchFunctionMode):
    """Hides some tokens from every self-attention, which then computes the others as if alone."""

    def __init__(self, hidden: list[int]) -> None:
        super().__init__()
        self._hidden = hidden

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            query, key, *_ = args
            mask = torch.zeros(query.shape[-2], key.shape[-2], dtype=query.dtype)
            mask[:, self._hidden] = -torch.inf
            return func(*args[:3], **{**named, "attn_mask": mask})
        return func(*args, **named)


def subjects_of(explainer: Explainer, targets: Any, images: Any) -> Subjects:
    trace = explainer.trace(images, layers=1)
    resolved = explainer.resolver.resolve(targets, len(images))
    explanations = explainer.attribute(trace, targets)
    question = Question.of(targets if isinstance(targets, list) else ["a cat"])
    return Subjects(
        explainer, trace, resolved, [question] * len(images), None, explanations, images, 2
    )


def features_without(explainer: Explainer, pixels: Tensor, removed: tuple[int, ...]) -> Tensor:
    """Compute features ``[1, e]`` of one image by running every token and hiding the removed."""
    tower = explainer.tower
    tokens = tower.embed(pixels)
    hidden = [tower.prefix_tokens + patch for patch in removed]
    with HiddenKeys(hidden):
        for index in range(tower.depth):
            tokens = tower.forward_block(tokens, index)
    kept = [index for index in range(tokens.shape[1]) if index not in hidden]
    head = tower.served_head()
    return head.features(head.state(tokens[:, kept]))


def features_masked(explainer: Explainer, pixels: Tensor, removed: tuple[int, ...]) -> Tensor:
    """Compute features ``[1, e]`` by the model's own code, of pixels with grey patches."""
    height, width = explainer.tower.patch_size
    columns = pixels.shape[-1] // width
    masked = pixels.clone()
    for patch in removed:
        top, left = patch // columns * height, patch % columns * width
        masked[..., top : top + height, left : left + width] = 0
    encoded: Tensor = explainer.model.encode_image(masked)  # type: ignore[operator]
    return encoded


@pytest.mark.parametrize(
    "vision",
    [STANDARD["class token"], STANDARD["average, norm before pooling"]],
    ids=["class token", "average"],
)
@torch.no_grad()
def test_tokens_of_open_clip_are_dropped(vision: dict[str, Any]) -> None:
    explainer = seeded_explainer(dtype=torch.float64, **vision)
    images = prepared(explainer, 1, 2)
    subjects = subjects_of(explainer, ["a cat", "a dog"], images)
    assert removal_of(explainer.tower) == "dropped"
    found = scores_without(subjects, [Reduced(i, each) for i in (0, 1) for each in REMOVED])
    vectors = explainer.text.encode(["a cat", "a dog"])
    pixels = explainer.input_of(images)
    explicit = ExplicitOpenClip(explainer.model.visual)
    for (image, removed), scores in found.items():
        kept = [0, *(1 + patch for patch in range(16) if patch not in removed)]
        tokens = explicit.tokens(pixels[image : image + 1])[:, kept]
        alone = explicit.features(explicit.run(tokens, 0, explicit.depth))
        expected = vectors @ F.normalize(alone, dim=-1)[0]
        np.testing.assert_allclose(scores, expected, atol=1e-12)
        assert np.abs(scores - whole_scores(subjects)[image]).max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_family_removes_patches_in_its_own_way(name: str) -> None:
    model = ImageModel(plain_model(name).visual)
    explainer = Explainer(model, None, name="plain")
    images = prepared(explainer, 1, 2)
    vectors = F.normalize(
        torch.randn(2, explainer.tower.embedding_size, generator=torch.Generator().manual_seed(0)),
        dim=-1,
    ).double()
    subjects = subjects_of(explainer, vectors, images)
    drops = removal_of(explainer.tower) == "dropped"
    assert drops is not any(each in name for each in MASKING)
    pixels = explainer.input_of(images)
    features = features_without if drops else features_masked
    found = scores_without(subjects, [Reduced(i, each) for i in (0, 1) for each in REMOVED])
    assert len(found) == 2 * len(REMOVED)
    for (image, removed), scores in found.items():
        alone = features(explainer, pixels[image : image + 1], removed)
        expected = vectors @ F.normalize(alone, dim=-1)[0]
        np.testing.assert_allclose(scores, expected, atol=1e-10)
    whole = F.normalize(model.encode_image(pixels), dim=-1) @ vectors.T
    np.testing.assert_allclose(np.stack(whole_scores(subjects)), whole, atol=1e-10)


@torch.no_grad()
def test_masked_patches_of_a_model_without_a_mean_are_not_black() -> None:
    model = ImageModel(plain_model("fastvit_sa12").visual)
    usual = Preprocessing(mean=(0.485, 0.456, 0.406), std=(1, 1, 1), source="a test")
    black = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), source="a test")
    scores = []
    for preprocessing in (usual, black):
        explainer = Explainer(model, None, name="plain", preprocessing=preprocessing)
        images = prepared(explainer)
        vectors = torch.eye(explainer.tower.embedding_size)[:2].double()
        subjects = subjects_of(explainer, vectors, images)
        everything = content_patches(images[0].geometry)
        scores.append(scores_without(subjects, [Reduced(0, tuple(everything.tolist()))]))
        ((found,),) = ([*each.values()] for each in scores[-1:])
        colour = torch.tensor(preprocessing.neutral).view(1, 3, 1, 1)
        whole = colour.expand(1, 3, *explainer.input_of(images).shape[2:]).double()
        expected = vectors @ F.normalize(model.encode_image(whole), dim=-1)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert black.neutral == pytest.approx(usual.mean)
    assert usual.neutral == (0, 0, 0)


@torch.no_grad()
def test_the_score_of_a_class_is_its_probability_and_of_others_the_similarity() -> None:
    model = ImageModel(plain_model("vit_tiny_patch16_224").visual)
    explainer = Explainer(model, None, name="plain")
    (image,) = prepared(explainer)
    embedding = torch.ones(explainer.tower.embedding_size).tolist()
    targets = [ClassTarget(3), EmbeddingTarget(embedding), ClassTarget(1)]
    subjects = subjects_of(explainer, targets, [image])
    assert [score_of(subjects, 0, row) for row in range(3)] == [
        "probability",
        "similarity",
        "probability",
    ]
    (scores,) = whole_scores(subjects)
    probabilities = model(explainer.input_of([image])).softmax(-1)[0]
    np.testing.assert_allclose(scores[[0, 2]], probabilities[[3, 1]], atol=1e-10)
    np.testing.assert_allclose(scores[1], subjects.explanations[0].similarities[1], atol=1e-6)


def test_patches_of_the_padding_are_none_of_the_picture() -> None:
    explainer = seeded_explainer()
    assert content_patches(explainer.plan((64, 32), fit="pad")).tolist() == list(range(4, 12))
    assert content_patches(explainer.plan((64, 32))).tolist() == list(range(16))


def test_text_targets_have_no_classifier() -> None:
    explainer = seeded_explainer()
    subjects = subjects_of(explainer, [TextTarget("a cat")], prepared(explainer))
    assert score_of(subjects, 0, 0) == "similarity"
