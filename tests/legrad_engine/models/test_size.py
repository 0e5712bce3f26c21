"""The size of a model's weights, known without reading or downloading any."""

import json
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch

from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError
from legrad_engine.models import ModelReference
from legrad_engine.models.size import weights_bytes
from tests.support.architectures import config


def bytes_of(model: Any) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_built_in_model_has_the_size_it_will_have(dtype: str) -> None:
    expected = Explainer.load("starter", dtype=dtype).nbytes
    assert weights_bytes(ModelReference("starter"), dtype) == expected


@pytest.mark.parametrize("name", ["ViT-B-32", "coca_ViT-B-32", "ViT-B-16-SigLIP", "EVA02-B-16"])
def test_architectures_have_the_size_that_open_clip_gives_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    size = weights_bytes(ModelReference(name, "a-tag"))
    expected = open_clip.create_model(name, pretrained_image=False, pretrained_text=False)
    assert size == bytes_of(expected)


def test_a_config_file_has_the_size_of_its_model(tmp_path: Path) -> None:
    path = tmp_path / "sized.json"
    path.write_text(json.dumps(config()))
    size = weights_bytes(ModelReference(str(path), "weights.pt"))
    assert size == bytes_of(open_clip.CLIP(**config()))
    assert "sized" not in open_clip.list_models()


def test_a_folder_has_the_size_of_its_model(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config()}))
    size = weights_bytes(ModelReference(f"local-dir:{tmp_path}"))
    assert size == bytes_of(open_clip.CLIP(**config()))


def test_an_image_model_has_the_size_it_will_have(tmp_path: Path) -> None:
    name, path = "vit_tiny_patch16_224", tmp_path / "weights.pt"
    torch.save(timm.create_model(name).state_dict(), path)
    size = weights_bytes(ModelReference(f"timm:{name}", str(path)))
    assert size == Explainer.load(f"timm:{name}", str(path)).nbytes


def test_a_timm_model_has_the_size_that_timm_gives_it() -> None:
    size = weights_bytes(ModelReference("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"))
    assert size == bytes_of(timm.create_model("vit_tiny_patch16_224"))


def test_a_checkpoint_stands_in_for_an_architecture_that_only_a_hub_knows(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"x" * 1234)
    assert weights_bytes(ModelReference("roberta-ViT-B-32", str(path))) == 1234


@pytest.mark.parametrize(
    "name",
    ["roberta-ViT-B-32", "hf-hub:someone/something", "timm:hf-hub:someone/something", "no-such"],
)
def test_what_cannot_be_known_is_none(name: str) -> None:
    assert weights_bytes(ModelReference(name, "a-tag")) is None


def test_a_damaged_config_is_left_to_the_loader(tmp_path: Path) -> None:
    path = tmp_path / "damaged.json"
    path.write_text("{")
    assert weights_bytes(ModelReference(str(path), "a-tag")) is None


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidOptionError):
        weights_bytes(ModelReference("starter"), "float8")
