"""Image models without a text half, and their classes as targets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from legrad_engine import Explainer, models
from legrad_engine.errors import (
    InvalidTargetError,
    UnsupportedModelError,
)
from legrad_engine.models.image_model import ImageModel
from legrad_engine.targets.text import NoText
from tests.support.architectures import disturb
from tests.support.seeded_timm import NAME, pixels, seeded

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (NAME, {}),
        (NAME, {"num_classes": 7, "global_pool": "avg"}),
        (NAME, {"num_classes": 7, "class_token": False, "global_pool": "avg", "fc_norm": True}),
        (NAME, {"num_classes": 7, "reg_tokens": 4}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 7}),
    ],
)
def test_the_classifier_on_the_features_is_the_model_s_own_answer(
    name: str, options: dict[str, Any]
) -> None:
    visual = seeded(name, img_size=64, **options)
    model = ImageModel(visual)
    assert model.classifier is not None
    with torch.no_grad():
        answer = visual(pixels())
        features = model.encode_image(pixels())
        found = model.classifier.probabilities(features)
        torch.testing.assert_close(found, answer.softmax(-1), atol=1e-6, rtol=1e-4)
        assert torch.equal(model(pixels()), answer)
        torch.testing.assert_close(
            model.encode_image(pixels(), normalize=True), F.normalize(features, dim=-1)
        )
    assert found.shape == (2, visual.num_classes)
    assert model.visual is visual
    unit = model.classifier.vectors([3, 0])
    assert unit.shape == (2, features.shape[1])
    torch.testing.assert_close(unit, F.normalize(model.classifier.weight, dim=-1)[[3, 0]])


@pytest.mark.parametrize(
    ("name", "classes", "multi_label"),
    [
        (NAME, 1, False),
        (NAME, 5, True),
        ("deit_tiny_distilled_patch16_224", 1, False),
        ("deit_tiny_distilled_patch16_224", 3, True),
    ],
)
def test_one_class_and_classes_that_are_independent_are_sigmoids(
    name: str, classes: int, multi_label: bool
) -> None:
    visual = seeded(name, img_size=64, num_classes=classes)
    model = ImageModel(visual, multi_label=multi_label).to(torch.float64)
    assert model.classifier is not None
    with torch.no_grad():
        expected = visual(pixels().double()).sigmoid()
        found = model.classifier.probabilities(model.encode_image(pixels().double()))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found.sum(-1), torch.ones(2, dtype=torch.float64))
    assert models.activation_of(model) == "sigmoid"


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 0, "global_pool": "map"}])
def test_a_backbone_has_no_classifier(options: dict[str, Any]) -> None:
    model = ImageModel(seeded(img_size=64, **options))
    assert model.classifier is None
    assert model.encode_image(pixels()).shape == (2, 48)


def test_the_normalisation_is_timm_s() -> None:
    model = ImageModel(seeded(img_size=64))
    found = models.preprocessing_of(model)
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_model_of_other_channels_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="1 channels"):
        ImageModel(seeded(img_size=64, in_chans=1))


def test_prompts_are_refused_where_there_is_no_text_half() -> None:
    text = NoText()
    assert not text.is_cached("cat")
    for ask in (lambda: text.check("cat"), lambda: text.encode(["cat"])):
        with pytest.raises(InvalidTargetError, match="a class, an image or an embedding"):
            ask()


def test_targets_of_an_image_model_are_weighed_by_their_cosines() -> None:
    cosines = torch.tensor([[0.2, 0.9]])
    found = models.probabilities(ImageModel(seeded(img_size=64)), cosines)
    assert torch.equal(found, cosines.softmax(-1))


@pytest.mark.parametrize(
    ("name", "classes"),
    [(NAME, 5), (NAME, 0), ("deit_tiny_distilled_patch16_224", 5)],
)
def test_an_image_model_is_explained_for_its_classes_and_for_vectors(
    name: str, classes: int, tmp_path: Path
) -> None:
    original = timm.create_model(name, num_classes=classes)
    disturb(original)
    save_file(original.state_dict(), tmp_path / "own.safetensors")
    explainer = Explainer.load(f"timm:{name}", str(tmp_path / "own.safetensors"))
    prepared = explainer.prepare(PICTURE)
    trace = explainer.trace([prepared])
    model = explainer.model
    assert isinstance(model, ImageModel)
    with torch.no_grad():
        features = model.encode_image(explainer.input_of([prepared]), normalize=True)
    torch.testing.assert_close(trace.embeddings, features, atol=1e-6, rtol=1e-4)
    if classes:
        assert explainer.classifier is not None
        vectors = explainer.classifier.vectors([4, 1])
    else:
        assert explainer.classifier is None
        vectors = F.normalize(torch.randn(2, features.shape[1]), dim=-1)
    (explanation,) = explainer.attribute(trace, vectors)
    assert explanation.maps.shape == (2, 14, 14)
    assert not np.allclose(explanation.maps[0], explanation.maps[1])
    np.testing.assert_allclose(
        explanation.similarities, (features @ vectors.T)[0].numpy(), atol=1e-5
    )
    with pytest.raises(InvalidTargetError, match="no text tower"):
        explainer.explain(PICTURE, ["a cat"])
