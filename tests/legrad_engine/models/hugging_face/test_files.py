"""The files of a model of transformers: found, refused, spread over parts, and from the hub."""

import contextlib
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from legrad_engine import Explainer, models
from legrad_engine.errors import (
    LegradError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from legrad_engine.models import ModelReference
from legrad_engine.models.hugging_face.registry import class_names
from legrad_engine.models.size import weights_bytes
from tests.support.hub_files import fill_cache
from tests.support.transformers_models import MODELS, saved, seeded

CLIP = "CLIPModel"
VIT = "ViTForImageClassification"


def features_of(folder: Path | str) -> torch.Tensor:
    model: Any = models.load(f"transformers:{folder}").model
    with torch.no_grad():
        features: torch.Tensor = model.encode_image(torch.ones(1, 3, 32, 32))
    return features


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


def spread(folder: Path, kind: str) -> None:
    """Spread the weights over three files, one of which has names of one half alone."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        part = ["vision_model", "text_model"].index(name.partition(".")[0]) if "." in name else 2
        groups.setdefault(f"{stem}-0000{part + 1}-of-00003.{kind}", {})[name] = tensor
    for file, group in groups.items():
        if kind == "safetensors":
            save_file(group, folder / file)
        else:
            torch.save(group, folder / file)
    index = {"weight_map": {name: file for file, group in groups.items() for name in group}}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files_are_read_as_one(kind: str, tmp_path: Path) -> None:
    saved("SiglipModel", tmp_path)
    expected = features_of(tmp_path)
    spread(tmp_path, kind)
    assert torch.equal(features_of(tmp_path), expected)
    next(tmp_path.glob("*-00002-of-*")).unlink()
    with pytest.raises(ModelLoadError, match="00002-of-00003"):
        ModelReference.parse(f"transformers:{tmp_path}").check()


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    saved("SiglipModel", tmp_path)
    spread(tmp_path, "safetensors")
    index = tmp_path / "model.safetensors.index.json"
    contents: list[Any] = [{"weight_map": {"a": "../model.safetensors"}}, {"weight_map": [1]}, []]
    for content in contents:
        index.write_text(json.dumps(content))
        with pytest.raises(ModelLoadError, match="weight_map"):
            models.load(f"transformers:{tmp_path}")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}},
    ],
    ids=["plain", "of a training program"],
)
def test_pickled_weights_are_read_as_plain_tensors(
    wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    saved(VIT, tmp_path)
    expected = features_of(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(wrap(weights), tmp_path / "pytorch_model.bin")
    assert torch.equal(features_of(tmp_path), expected)


def test_names_of_newer_versions_are_read_too(tmp_path: Path) -> None:
    """A state_dict of transformers 5 has other names than its own files."""
    for name in ("ViTModel", "BeitForImageClassification", "Dinov2Model, SwiGLU"):
        folder = tmp_path / name
        saved(name, folder)
        expected = features_of(folder)
        (folder / "model.safetensors").unlink()
        torch.save(seeded(name).state_dict(), folder / "pytorch_model.bin")
        assert torch.equal(features_of(folder), expected)


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    saved(VIT, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": _Evil(tmp_path / "ran")}))
    with pytest.raises(ModelLoadError):
        models.load(f"transformers:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_an_unsupported_class_is_refused_with_those_that_are_supported(tmp_path: Path) -> None:
    saved(VIT, tmp_path)
    for name in ("ViTForMaskedImageModeling", "BertModel", "SwinForImageClassification"):
        change_config(tmp_path, architectures=[name])
        reference = ModelReference.parse(f"transformers:{tmp_path}")
        with pytest.raises(UnsupportedModelError) as refusal:
            reference.check()
        for supported in ("CLIPModel", "DINOv3ViTModel", *class_names()):
            assert supported in str(refusal.value)
        assert name in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"architectures": ...}, ModelLoadError, "architectures"),
        ({"architectures": []}, ModelLoadError, "architectures"),
        ({"architectures": "ViTModel"}, ModelLoadError, "architectures"),
        ({"auto_map": {"AutoModel": "evil.Evil"}}, ModelLoadError, "auto_map"),
        ({"quantization_config": {"bits": 4}}, UnsupportedModelError, "quantised"),
        ({"num_channels": 1}, UnsupportedModelError, "channels"),
        ({"problem_type": "regression"}, UnsupportedModelError, "numbers"),
        ({"hidden_act": "mish"}, UnsupportedModelError, "mish"),
        ({"hidden_size": "many"}, ModelLoadError, "config"),
        ({"num_hidden_layers": 3}, ModelLoadError, "missing"),
        ({"num_hidden_layers": 1}, ModelLoadError, "unexpected"),
        ({"intermediate_size": 60}, ModelLoadError, "another shape"),
        ({"model_type": "nothing"}, ModelLoadError, "config"),
    ],
    ids=str,
)
def test_a_config_that_cannot_work_is_refused(
    changes: dict[str, Any], error: type[LegradError], says: str, tmp_path: Path
) -> None:
    saved(VIT, tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(error, match=says) as refusal:
        models.load(f"transformers:{tmp_path}")
    assert refusal.value.field == "model"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "half", "changes", "says"),
    [
        ("SiglipModel", "vision_config", {"vision_use_head": False}, "pooler"),
        ("SiglipModel", "text_config", {"projection_size": 16}, "cannot be compared"),
        ("CLIPModel", "vision_config", {"num_channels": 4}, "channels"),
    ],
)
def test_halves_that_cannot_be_explained_are_refused(
    name: str, half: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    saved(name, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    change_config(tmp_path, **{half: {**settings[half], **changes}})
    with pytest.raises(UnsupportedModelError, match=says):
        models.load(f"transformers:{tmp_path}")


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    saved(CLIP, tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    expected = features_of(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    # transformers may know a tokenizer of its own for the model.
    with contextlib.suppress(ModelLoadError):
        assert torch.equal(features_of(tmp_path), expected)
    change_config(tmp_path, auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    with pytest.raises(ModelLoadError, match="auto_map"):
        models.load(f"transformers:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for says, error in (("no folder", UnknownModelError), ("config.json", UnknownModelError)):
        with pytest.raises(error, match=says):
            ModelReference.parse(f"transformers:{folder}").check()
        folder.mkdir(exist_ok=True)
    saved(CLIP, folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelLoadError, match="save_pretrained"):
        models.load(f"transformers:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"no model\.safetensors or"):
        ModelReference.parse(f"transformers:{folder}").check()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="merge_and_unload"):
        ModelReference.parse(f"transformers:{folder}").check()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    saved(CLIP, tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["a"] = 4000
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelLoadError, match="another model"):
        models.load(f"transformers:{tmp_path}")


def test_weights_are_not_given_twice(tmp_path: Path) -> None:
    saved(VIT, tmp_path)
    with pytest.raises(UnknownModelError, match="includes its weights"):
        models.load(f"transformers:{tmp_path}", "w.pt")


def test_without_the_package_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(VIT, tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in (f"transformers:{tmp_path}", "transformers:org/own"):
        with pytest.raises(ModelLoadError, match=r"pip install 'legrad-service\[hf\]'"):
            ModelReference.parse(name).check()


@pytest.mark.parametrize("name", ["a/b/c", "../..@", "a b", "/nowhere"])
def test_impossible_names_are_refused_before_any_request(name: str) -> None:
    with pytest.raises(UnknownModelError):
        ModelReference.parse(f"transformers:{name}").check()


@pytest.mark.parametrize("name", MODELS)
def test_the_size_of_a_model_is_known_before_it_is_loaded(name: str, tmp_path: Path) -> None:
    reference = ModelReference.parse(f"transformers:{saved(name, tmp_path)}")
    for dtype in ("float32", "bfloat16"):
        measured = Explainer.load(reference, dtype=dtype).nbytes
        assert weights_bytes(reference, dtype) == measured


def test_a_cached_repository_is_loaded_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE is set"):
        models.load("transformers:org/own")
    saved(CLIP, tmp_path / "own")
    files = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    fill_cache(tmp_path / "cache", "org/own", files)
    loaded = models.load("transformers:org/own")
    assert loaded.name == "transformers:org/own"
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
    assert torch.equal(features_of("org/own"), features_of(tmp_path / "own"))
    assert weights_bytes(ModelReference.parse("transformers:org/own")) is None
