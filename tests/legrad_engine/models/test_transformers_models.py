"""Models of transformers: the numbers of transformers itself, and maps by the definition."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from legrad_engine import Explainer, models
from legrad_engine.images.geometry import plan
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.models.hugging_face.registry import class_names
from legrad_engine.models.image_model import ImageModel
from tests.support.explicit_transformers import (
    exact,
    explicit_transformers_maps,
    image_features,
    logits,
    text_features,
)
from tests.support.pictures import picture
from tests.support.transformers_models import (
    ANY_SIZE,
    CLASSIFIERS,
    CONTEXT,
    END,
    LABELS,
    MODELS,
    TEXT_MODELS,
    saved,
    seeded,
    transformers,
)


def pixels_of(height: int, width: int, seed: int = 1, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, width, generator=generator)


def sizes_of(name: str) -> list[tuple[int, int]]:
    if "not square" in name:
        return [(48, 32)]
    return [(32, 32), (48, 24)] if name in ANY_SIZE else [(32, 32)]


def test_every_supported_class_is_tested() -> None:
    assert {name.partition(",")[0] for name in MODELS} == set(class_names())


@pytest.mark.parametrize("name", MODELS)
def test_image_features_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    explainer = Explainer.load(f"transformers:{saved(name, tmp_path)}")
    for height, width in sizes_of(name):
        pixels = pixels_of(height, width)
        with torch.no_grad():
            expected = image_features(seeded(name), pixels)
            found = features_by_trace(explainer, pixels)
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def features_by_trace(explainer: Explainer, pixels: torch.Tensor) -> torch.Tensor:
    return explainer.trace(prepared(explainer, pixels), layers=1).features


def prepared(explainer: Explainer, pixels: torch.Tensor) -> list[PreparedImage]:
    height, width = pixels.shape[-2:]
    geometry = plan(
        (width, height),
        size=(width, height),
        patch_size=explainer.tower.patch_size,
        fit="squash",
    )
    return [PreparedImage(picture.numpy(), geometry) for picture in pixels]


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_features_and_probabilities_equal_those_of_transformers(
    name: str, tmp_path: Path
) -> None:
    model: Any = models.load(f"transformers:{saved(name, tmp_path)}").model
    ids = torch.tensor([[3, 4, END, 0, 0, 0, 0, 0], [5, 6, 7, 8, 3, 4, 4, END]])
    own = seeded(name)
    pixels = pixels_of(32, 32)
    with torch.no_grad():
        texts, pictures = text_features(own, ids), image_features(own, pixels)
        torch.testing.assert_close(model.encode_text(ids), texts, rtol=1e-5, atol=1e-5)
        cosines = F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T
        scaled = cosines * own.logit_scale.exp() + getattr(own, "logit_bias", 0)
        expected = scaled.sigmoid() if hasattr(own, "logit_bias") else scaled.softmax(-1)
        found = models.probabilities(model, cosines)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_prompts_are_read_by_the_saved_tokenizer_alone(name: str, tmp_path: Path) -> None:
    explainer = Explainer.load(f"transformers:{saved(name, tmp_path)}")
    # open_clip's own cleaning would turn the first into "a & cat".
    prompts = ["a &amp; cat", "a red cat"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(
        prompts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected = F.normalize(text_features(seeded(name), ids), dim=-1)
    torch.testing.assert_close(explainer.text.encode(prompts), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes_and_their_probabilities_are_those_of_transformers(
    name: str, tmp_path: Path
) -> None:
    model = models.load(f"transformers:{saved(name, tmp_path)}").model
    assert isinstance(model, ImageModel)
    assert model.classifier is not None
    assert model.classifier.labels == LABELS
    assert model.classifier.index_of("tabby cat") == 0
    pixels = pixels_of(*sizes_of(name)[0])
    with torch.no_grad():
        expected = logits(seeded(name), pixels)
        torch.testing.assert_close(model(pixels), expected, rtol=1e-5, atol=1e-5)
        found = model.classifier.probabilities(model.encode_image(pixels))
        torch.testing.assert_close(found, expected.softmax(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({}, "softmax"),
    ],
)
def test_the_config_says_whether_classes_are_independent(
    changes: dict[str, str], activation: str, tmp_path: Path
) -> None:
    name = "ViTForImageClassification"
    saved(name, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    model = models.load(f"transformers:{tmp_path}").model
    assert models.activation_of(model) == activation
    assert isinstance(model, ImageModel)
    assert model.classifier is not None
    pixels = pixels_of(32, 32)
    with torch.no_grad():
        own = logits(seeded(name), pixels)
        found = model.classifier.probabilities(model.encode_image(pixels))
    expected = own.sigmoid() if activation == "sigmoid" else own.softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_maps_equal_the_definition_on_the_modules_of_transformers(
    name: str, tmp_path: Path
) -> None:
    explainer = Explainer.load(f"transformers:{saved(name, tmp_path)}", dtype="float64")
    own = exact(seeded(name))
    for height, width in sizes_of(name):
        pixels = pixels_of(height, width)
        for score in explainer.tower.scores:
            trace = explainer.trace(prepared(explainer, pixels), layers="all", score=score)
            generator = torch.Generator().manual_seed(2)
            targets = F.normalize(
                torch.randn(3, explainer.tower.embedding_size, generator=generator).double(), dim=-1
            )
            found = explainer.attribute(trace, targets)
            for image, explanation in zip(pixels, found, strict=True):
                expected = explicit_transformers_maps(
                    own, image, targets, range(explainer.tower.depth), score
                ).numpy()
                assert expected.max() > 0
                difference = np.abs(explanation.maps.reshape(3, -1) - expected).max()
                # transformers computes rotary positions and resampled ones in float32.
                assert difference <= (1e-6 if name in ANY_SIZE else 1e-9) * expected.max()


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_kept_in_half_precision(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    image = picture()
    maps: dict[str, np.ndarray[Any, Any]] = {}
    for dtype in ("float32", "bfloat16"):
        explainer = Explainer.load(f"transformers:{tmp_path}", dtype=dtype)
        target = F.normalize(pixels_of(1, explainer.tower.embedding_size)[0, 0], dim=-1)
        maps[dtype] = explainer.explain(image, target)[0].maps.ravel()
    assert np.corrcoef(maps["float32"], maps["bfloat16"])[0, 1] > 0.999
