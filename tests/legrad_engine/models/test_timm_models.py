"""Plain timm models: by name, by checkpoint, from a folder or from the hub."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save, save_file

from legrad_engine import ClassTarget, Explainer, models
from legrad_engine.errors import (
    LegradError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from legrad_engine.models import ModelReference
from legrad_engine.models.image_model import ImageModel
from tests.support.architectures import disturb
from tests.support.hub_files import fill_cache
from tests.support.seeded_timm import FULL, NAME, own_folder, pixels, seeded

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


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
        logits = original(explainer.input_of([explainer.prepare(PICTURE)]))[0]
    whole = logits.softmax(-1) if activation == "softmax" else logits.sigmoid()
    np.testing.assert_allclose(explanation.probabilities, whole[[1, 0]], rtol=1e-4)


@pytest.mark.parametrize(
    ("problem", "error", "told"),
    [
        ("multilabel", ModelLoadError, "multi_label_classification"),
        ("regression", UnsupportedModelError, "no classes to explain"),
    ],
)
def test_another_kind_of_classification_is_refused(
    problem: str, error: type[LegradError], told: str, tmp_path: Path
) -> None:
    own_folder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "problem_type": problem}))
    with pytest.raises(error, match=told):
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
