"""Image models without a text half, and their classes as targets."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save, save_file
from timm.data import ImageNetInfo

from legrad_engine import ClassTarget, Explainer, models
from legrad_engine.errors import (
    InvalidTargetError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from legrad_engine.models import ModelReference
from legrad_engine.models.image_model import ImageModel
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.text import NoText
from tests.support.architectures import disturb
from tests.support.hub_files import fill_cache

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")
NAME = "vit_tiny_patch16_224"
SHRUNK = {"depth": 2, "embed_dim": 48, "num_heads": 3}
FULL: dict[str, Any] = {"depth": 12, "embed_dim": 192, "num_heads": 3}


def seeded(name: str = NAME, **options: Any) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: torch.nn.Module = timm.create_model(name, **{**SHRUNK, **options})
    disturb(model)
    return model.eval()


def pixels(side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def classifier(labels: tuple[str, ...] | None, classes: int | None = None) -> Classifier:
    return Classifier(torch.eye(classes or len(labels or ())), None, labels)


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


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": None}, "softmax"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
    ],
    ids=str,
)
def test_the_config_says_whether_a_picture_may_have_several_classes(
    settings: dict[str, Any], activation: str, tmp_path: Path
) -> None:
    original = own_folder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    explainer = Explainer.load(f"timm:local-dir:{tmp_path}")
    assert models.activation_of(explainer.model) == activation
    (explanation,) = explainer.explain(PICTURE, [ClassTarget(label="dog"), ClassTarget(0)])
    with torch.no_grad():
        logits = original(torch.from_numpy(explainer.prepare(PICTURE).pixels)[None])[0]
    whole = logits.softmax(-1) if activation == "softmax" else logits.sigmoid()
    np.testing.assert_allclose(explanation.probabilities, whole[[1, 0]], rtol=1e-4)


def test_an_unknown_kind_of_classification_is_refused(tmp_path: Path) -> None:
    own_folder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "problem_type": "regression"}))
    with pytest.raises(ModelLoadError, match="multi_label_classification"):
        models.load(f"timm:local-dir:{tmp_path}")


def test_weights_of_one_s_own_have_no_licence_of_timm_s(tmp_path: Path) -> None:
    save_file(seeded(img_size=224, **FULL).state_dict(), tmp_path / "own.safetensors")
    assert timm.models.get_pretrained_cfg(NAME).license is not None
    assert models.load(f"timm:{NAME}@{tmp_path}/own.safetensors").licence is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"net": state},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
        lambda state: {"teacher": state, "student": {"a": torch.zeros(1)}},
        lambda state: {
            "n_averaged": torch.tensor(3),
            **{f"module.{key}": value for key, value in state.items()},
        },
    ],
    ids=["net", "Lightning", "teacher", "averaged"],
)
def test_a_timm_checkpoint_is_found_in_its_container(
    wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    original = seeded(img_size=224, num_classes=4, **FULL)
    torch.save(wrap(original.state_dict()), tmp_path / "own.pt")
    loaded = models.load(f"timm:{NAME}@{tmp_path}/own.pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(pixels(224)), original(pixels(224)))
    assert "state_dict" not in loaded.model.visual.pretrained_cfg  # type: ignore[union-attr, operator]


def test_a_rectangular_fine_tune_is_refused_with_the_remedy(tmp_path: Path) -> None:
    original = seeded(img_size=(96, 64), num_classes=3, **FULL)
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="timm:local-dir:FOLDER") as refusal:
        models.load(f"timm:{NAME}@{tmp_path}/model.safetensors")
    # The remedy works.
    remedy = re.search(r"\{.*\}", str(refusal.value))
    assert remedy is not None
    (tmp_path / "config.json").write_text(remedy.group().replace("NAME", NAME))
    loaded = models.load(f"timm:local-dir:{tmp_path}")
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    batch = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(batch), original(batch))


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 0, "global_pool": "map"}])
def test_a_backbone_has_no_classifier(options: dict[str, Any]) -> None:
    model = ImageModel(seeded(img_size=64, **options))
    assert model.classifier is None
    assert model.encode_image(pixels()).shape == (2, 48)


def test_a_head_of_more_than_one_layer_is_no_classifier() -> None:
    visual = seeded(img_size=64, num_classes=5)
    visual.head = torch.nn.Sequential(torch.nn.Linear(48, 8), torch.nn.Linear(8, 5))
    assert Classifier.of(visual) is None


def test_the_normalisation_is_timm_s() -> None:
    model = ImageModel(seeded(img_size=64))
    found = models.preprocessing_of(model)
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_model_of_other_channels_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="1 channels"):
        ImageModel(seeded(img_size=64, in_chans=1))


def test_imagenet_classes_are_known_by_any_of_their_names() -> None:
    found = Classifier.of(seeded(img_size=64))
    assert found is not None
    assert found.labels == tuple(ImageNetInfo().label_descriptions())
    assert found.index_of("tabby, tabby cat") == 281
    assert found.index_of("Tabby") == 281
    assert found.index_of("  TABBY   cat ") == 281
    assert found.index_of("golden_retriever") == 207
    assert found.index_of(0) == 0
    assert found.index_of(999) == 999


def test_an_ambiguous_name_is_answered_with_the_indices() -> None:
    found = Classifier.of(seeded(img_size=64))
    assert found is not None
    with pytest.raises(InvalidTargetError, match=r"134 .*517") as refusal:
        found.index_of("crane")
    assert refusal.value.field == "targets"


def test_a_whole_label_goes_before_a_name_in_another_one() -> None:
    found = classifier(("projectile, missile", "missile"))
    assert found.index_of("missile") == 1
    assert found.index_of("projectile") == 0


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    found = Classifier.of(seeded(img_size=64))
    assert found is not None
    with pytest.raises(InvalidTargetError, match="golden retriever"):
        found.index_of("goldn retriver")
    with pytest.raises(InvalidTargetError, match="tabby cat"):
        found.index_of("cat")
    with pytest.raises(InvalidTargetError, match="no class 'qqqq'"):
        found.index_of("qqqq")


@pytest.mark.parametrize("class_", [-1, 3, 10**30, True, "", " ", None, 1.0, "x" * 10**6], ids=str)
def test_what_is_no_class_is_refused(class_: Any) -> None:
    with pytest.raises(InvalidTargetError) as refusal:
        classifier(("cat", "dog", "owl")).index_of(class_)
    assert refusal.value.field == "targets"
    assert len(str(refusal.value)) < 300


def test_the_range_is_told_for_an_index_and_for_classes_without_names() -> None:
    with pytest.raises(InvalidTargetError, match="0 to 2"):
        classifier(("cat", "dog", "owl")).index_of(3)
    with pytest.raises(InvalidTargetError, match="0 to 4"):
        classifier(None, classes=5).index_of("cat")
    assert classifier(None, classes=5).index_of(4) == 4


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize("tag", ["", ".augreg_in21k"])
def test_a_timm_name_is_loaded_with_timm_s_own_weights(tag: str, offline: Path) -> None:
    record = timm.models.get_pretrained_cfg(NAME + tag)
    original = timm.create_model(NAME, num_classes=record.num_classes).eval()
    disturb(original)
    fill_cache(offline, record.hf_hub_id, {"model.safetensors": save(original.state_dict())})
    loaded = models.load(f"timm:{NAME}{tag}")
    assert isinstance(loaded.model, ImageModel)
    assert (loaded.name, loaded.licence) == (f"timm:{NAME}{tag}", record.license)
    assert loaded.tokenizer is None
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(pixels(224)), original(pixels(224)))
    assert loaded.model.classifier is not None
    assert len(loaded.model.classifier.labels or ()) == record.num_classes


@pytest.mark.parametrize("classes", [1000, 7, 0])
@pytest.mark.parametrize("wrap", ["plain", "ema", "module."])
def test_a_checkpoint_of_one_s_own_has_as_many_classes_as_it_has(
    classes: int, wrap: str, tmp_path: Path
) -> None:
    original = timm.create_model(NAME, num_classes=classes).eval()
    disturb(original)
    state = original.state_dict()
    saved: dict[str, Any] = {
        "plain": state,
        "ema": {"state_dict_ema": state, "state_dict": {}, "epoch": 1},
        "module.": {"model": {f"module.{key}": value for key, value in state.items()}},
    }[wrap]
    torch.save(saved, tmp_path / "own.pth.tar")
    loaded = models.load(f"timm:{NAME}", str(tmp_path / "own.pth.tar"))
    assert isinstance(loaded.model, ImageModel)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(pixels(224)), original(pixels(224)))
    if classes == 0:
        assert loaded.model.classifier is None
    else:
        assert loaded.model.classifier is not None
        assert (loaded.model.classifier.labels is None) == (classes == 7)


def test_a_checkpoint_of_another_input_size_is_resampled(tmp_path: Path) -> None:
    tuned = timm.create_model(NAME, img_size=96, num_classes=3).eval()
    save_file(tuned.state_dict(), tmp_path / "own.safetensors")
    loaded = models.load(f"timm:{NAME}", str(tmp_path / "own.safetensors"))
    tuned.set_input_size((224, 224))
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(pixels(224)), tuned(pixels(224)), atol=1e-4, rtol=1e-3
        )


def own_folder(folder: Path, **pretrained: Any) -> torch.nn.Module:
    """Writes what timm saves for the hub; returns the model."""
    original = seeded(img_size=(96, 64), num_classes=3)
    save_file(original.state_dict(), folder / "model.safetensors")
    settings = {
        "architecture": NAME,
        "num_classes": 3,
        "label_names": ["tom", "rex", "owl"],
        "label_descriptions": {"tom": "cat, tom cat", "rex": "dog"},
        "model_args": {**SHRUNK, "img_size": [96, 64]},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], **pretrained},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return original


def test_a_folder_that_timm_saved_is_loaded_as_timm_loads_it(tmp_path: Path) -> None:
    own_folder(tmp_path, license="mit")
    original = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    loaded = models.load(f"timm:local-dir:{tmp_path}")
    assert isinstance(loaded.model, ImageModel)
    assert loaded.licence == "mit"
    found = loaded.preprocessing
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    batch = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch), original(batch))
    assert loaded.model.classifier is not None
    assert loaded.model.classifier.labels == ("cat, tom cat", "dog", "owl")
    assert loaded.model.classifier.index_of("tom cat") == 0


def test_a_hub_name_of_timm_s_is_loaded_from_the_offline_cache(
    tmp_path: Path, offline: Path
) -> None:
    (tmp_path / "own").mkdir()
    original = own_folder(tmp_path / "own")
    files = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    fill_cache(offline, "org/own", files)
    for name in ("timm:hf-hub:org/own", "timm:hf-hub:org/own@main"):
        model = models.load(name).model
        batch = torch.randn(1, 3, 96, 64)
        with torch.no_grad():
            torch.testing.assert_close(model(batch), original(batch))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_dtype_of_an_image_model_is_the_one_asked_for(dtype: str, tmp_path: Path) -> None:
    own_folder(tmp_path)
    model = models.load(f"timm:local-dir:{tmp_path}", dtype=dtype).model
    assert isinstance(model, ImageModel)
    assert {value.dtype for value in model.parameters()} == {getattr(torch, dtype)}
    assert model.classifier is not None
    assert model.classifier.vectors([0]).dtype == getattr(torch, dtype)


def test_a_timm_checkpoint_that_does_not_fit_is_refused_key_by_key(tmp_path: Path) -> None:
    state = dict(seeded(img_size=224, num_classes=3).state_dict())
    save_file({**state, "extra": torch.zeros(1)}, tmp_path / "own.safetensors")
    with pytest.raises(ModelLoadError) as refusal:
        models.load(f"timm:{NAME}", str(tmp_path / "own.safetensors"))
    message = str(refusal.value)
    assert "missing (blocks.2.norm1.weight," in message
    assert "1 unexpected (extra)" in message
    assert "of another shape (cls_token [1, 1, 48] where the config makes it [1, 1, 192]" in message
    assert "\n" not in message
    assert len(message) < 800


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "not JSON"),
        ("3", "architecture"),
        ("{}", "architecture"),
        (json.dumps({"architecture": "no_such_model"}), "no_such_model"),
    ],
)
def test_a_damaged_timm_config_is_known_before_it_is_tried(
    settings: str, says: str, tmp_path: Path
) -> None:
    own_folder(tmp_path)
    (tmp_path / "config.json").write_text(settings)
    with pytest.raises((ModelLoadError, UnknownModelError), match=says):
        ModelReference.parse(f"timm:local-dir:{tmp_path}").check()


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": NAME, "pretrained_cfg": {"nonsense": 1}},
        {"architecture": NAME, "pretrained_cfg": 3},
        {"architecture": NAME, "model_args": {"nonsense": 1}, "pretrained_cfg": {}},
    ],
    ids=str,
)
def test_a_config_that_timm_cannot_build_is_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    own_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError, match="timm cannot build a model") as refusal:
        models.load(f"timm:local-dir:{tmp_path}")
    assert "\n" not in str(refusal.value)


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
        features = model.encode_image(torch.from_numpy(prepared.pixels)[None], normalize=True)
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
