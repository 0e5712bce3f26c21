"""Loading models by name, config file, checkpoint and hub tag, and refusing what is none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save, save_file

from legrad_engine import Explainer, Negatives
from legrad_engine.errors import (
    InvalidOptionError,
    InvalidTargetError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from legrad_engine.models import ModelReference, catalogue
from tests.support.architectures import CONTEXT_LENGTH, config, disturb
from tests.support.hub_files import fill_cache

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shrunk model's config and its weights as safetensors and as .pt."""
    folder = tmp_path_factory.mktemp("models")
    settings = config()
    (folder / "shrunk-for-test.json").write_text(json.dumps(settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**settings)
    disturb(model)
    save_file(model.state_dict(), folder / "weights.safetensors")
    torch.save(model.state_dict(), folder / "weights.pt")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "training.pt")
    return folder


@pytest.fixture(scope="module")
def shrunk(folder: Path) -> str:
    return str(folder / "shrunk-for-test.json")


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt", "training.pt"])
def test_a_config_file_and_a_checkpoint_make_an_explainer(
    file: str, folder: Path, shrunk: str
) -> None:
    explainer = Explainer.load(shrunk, str(folder / file))
    expected = torch.load(folder / "weights.pt", weights_only=True)
    for name, value in explainer.model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert explainer.name == "shrunk-for-test"
    assert not any(parameter.requires_grad for parameter in explainer.model.parameters())
    assert not explainer.model.training
    (explanation,) = explainer.explain(PICTURE, ["a cat"])
    assert explanation.maps.shape == (1, 4, 4)


def test_a_loaded_model_s_tokenizer_reads_as_much_as_its_text_tower(
    folder: Path, shrunk: str
) -> None:
    explainer = Explainer.load(shrunk, str(folder / "weights.pt"))
    explainer.text.check(" ".join(["cat"] * (CONTEXT_LENGTH - 2)))
    with pytest.raises(InvalidTargetError, match=f"reads {CONTEXT_LENGTH - 2}"):
        explainer.text.check(" ".join(["cat"] * (CONTEXT_LENGTH - 1)))


def test_a_prompt_that_only_a_template_makes_too_long_is_refused(folder: Path, shrunk: str) -> None:
    explainer = Explainer.load(shrunk, str(folder / "weights.pt"))
    prompt = " ".join(["cat"] * (CONTEXT_LENGTH - 5))
    explainer.text.check(prompt, ["a {}", "a photo {}"])
    templates = ["{}", "a photo of a {}"]
    with pytest.raises(InvalidTargetError, match="longest template"):
        explainer.text.check(prompt, templates)
    with pytest.raises(InvalidTargetError) as refusal:
        explainer.explain(PICTURE, ["a cat", prompt], templates=templates)
    assert refusal.value.field == "prompts"
    # Negatives are read as written.
    explainer.explain(PICTURE, ["a cat"], templates=templates, negatives=Negatives((prompt,)))


def test_another_resolution_gives_what_open_clip_gives_when_it_loads_at_that_resolution(
    folder: Path, shrunk: str
) -> None:
    explainer = Explainer.load(shrunk, str(folder / "weights.safetensors"))
    open_clip.add_model_config(shrunk)
    larger = open_clip.create_model(
        "shrunk-for-test",
        pretrained=str(folder / "weights.safetensors"),
        force_image_size=112,
        weights_only=True,
    ).eval()
    prepared = explainer.prepare(PICTURE, 112)
    with torch.no_grad():
        expected = larger.encode_image(explainer.input_of([prepared]), normalize=True)
    assert torch.allclose(explainer.trace([prepared]).embeddings, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_the_dtype_is_the_one_asked_for(dtype: str, folder: Path, shrunk: str) -> None:
    explainer = Explainer.load(shrunk, str(folder / "weights.pt"), dtype=dtype)
    assert explainer.dtype == getattr(torch, dtype)
    assert {value.dtype for value in explainer.model.parameters()} == {explainer.dtype}


def test_a_hub_tag_loads_what_the_download_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything but the network is real: the tag's own record, its normalisation, the weights.
    settings = open_clip.get_model_config("ViT-B-32-quickgelu")
    settings["vision_cfg"] |= {"layers": 1, "width": 64}
    settings["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = open_clip.CLIP(**settings).state_dict()
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", settings)
    fill_cache(
        folder / "cache",
        "timm/vit_base_patch32_clip_224.metaclip_400m",
        {"open_clip_model.safetensors": save(weights)},
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    explainer = Explainer.load("ViT-B-32-quickgelu", "metaclip_400m")
    tag = open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "metaclip_400m")
    found = explainer.preprocessing
    assert (found.mean, found.std) == (tag["mean"], tag["std"])
    assert torch.equal(explainer.model.state_dict()["visual.proj"], weights["visual.proj"])
    (explanation,) = explainer.explain(PICTURE, ["a cat"], layers=1)
    assert explanation.maps.shape == (1, 7, 7)


def test_a_tag_for_another_activation_is_loaded_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = open_clip.get_model_config("ViT-B-32")
    settings["vision_cfg"] |= {"layers": 1, "width": 64}
    settings["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", settings)
    fill_cache(
        folder / "cache",
        "timm/vit_base_patch32_clip_224.openai",
        {"open_clip_model.safetensors": save(open_clip.CLIP(**settings).state_dict())},
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Explainer.load("ViT-B-32", "openai")
    assert any("ViT-B-32-quickgelu" in record.getMessage() for record in caplog.records)


def test_random_weights_are_loaded_with_a_warning(
    shrunk: str, caplog: pytest.LogCaptureFixture
) -> None:
    Explainer.load(shrunk)
    assert any("random weights" in record.getMessage() for record in caplog.records)


def test_the_normalisation_is_the_model_s_own(folder: Path, shrunk: str) -> None:
    explainer = Explainer.load(shrunk, str(folder / "weights.pt"))
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=64, resize_mode="squash"), is_train=False
    )
    prepared = explainer.prepare(PICTURE)
    np.testing.assert_allclose(explainer.input_of([prepared])[0], transform(PICTURE), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pretrained", "error"),
    [
        ("no-such-architecture", None, UnknownModelError),
        ("missing.json", None, UnknownModelError),
        ("ViT-B-16", "no_such_tag", UnknownModelError),
        ("ViT-B-16", "missing/weights.safetensors", ModelLoadError),
        ("ViT-B-16", "missing.pt", ModelLoadError),
    ],
)
def test_names_that_lead_nowhere_are_refused(
    name: str, pretrained: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error) as refusal:
        Explainer.load(name, pretrained)
    assert refusal.value.field == "model"  # type: ignore[attr-defined]


def test_an_unknown_tag_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownModelError, match="laion2b_s34b_b88k"):
        Explainer.load("ViT-B-16", "no_such_tag")


def test_a_checkpoint_of_another_shape_is_refused(folder: Path, shrunk: str) -> None:
    save_file({"visual.proj": torch.zeros(3, 3)}, folder / "other.safetensors")
    with pytest.raises(ModelLoadError) as refusal:
        Explainer.load(shrunk, str(folder / "other.safetensors"))
    assert refusal.value.field == "model"


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint"], ids=["empty", "garbage"])
def test_a_damaged_checkpoint_is_refused(
    suffix: str, content: bytes, folder: Path, shrunk: str
) -> None:
    path = folder / f"damaged.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError):
        Explainer.load(shrunk, str(path))


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "executed")


def test_a_checkpoint_that_carries_code_is_refused_and_never_run(folder: Path, shrunk: str) -> None:
    torch.save({"state_dict": Malicious(folder / "executed")}, folder / "malicious.pt")
    with pytest.raises(ModelLoadError):
        Explainer.load(shrunk, str(folder / "malicious.pt"))
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("content", ["", "{", "3", "[]", '{"width": 3}', "\x00"], ids=repr)
def test_a_damaged_config_is_refused_and_spoils_no_later_load(
    content: str, folder: Path, shrunk: str
) -> None:
    (folder / "damaged.json").write_text(content)
    with pytest.raises(ModelLoadError) as refusal:
        Explainer.load(str(folder / "damaged.json"))
    assert refusal.value.field == "model"
    other = folder / "after-damage.json"
    other.write_text(Path(shrunk).read_text())
    Explainer.load(str(other), str(folder / "weights.pt"))


def test_a_convolutional_tower_is_refused(folder: Path) -> None:
    settings = config(layers=[1, 1, 1, 1], width=8)
    (folder / "convolutional.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModelError, match="is a ResNet"):
        Explainer.load(str(folder / "convolutional.json"))


@pytest.mark.parametrize("device", ["tpu9", "", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str, shrunk: str) -> None:
    with pytest.raises(InvalidOptionError) as refusal:
        Explainer.load(shrunk, device=device)
    assert refusal.value.field == "device"


@pytest.mark.parametrize("dtype", ["int8", "", torch.int64, None], ids=repr)
def test_a_dtype_that_no_model_runs_in_is_refused(dtype: Any, shrunk: str) -> None:
    with pytest.raises(InvalidOptionError) as refusal:
        Explainer.load(shrunk, dtype=dtype)
    assert refusal.value.field == "dtype"


@pytest.mark.parametrize(
    ("text", "name", "pretrained", "identity"),
    [
        ("starter", "starter", None, "starter"),
        (
            "ViT-B-16/laion2b_s34b_b88k",
            "ViT-B-16",
            "laion2b_s34b_b88k",
            "vit-b-16-laion2b_s34b_b88k",
        ),
        ("ViT-B-16@/a/b/My weights.pt", "ViT-B-16", "/a/b/My weights.pt", "vit-b-16-my-weights"),
        ("a/shrunk.json@w.safetensors", "a/shrunk.json", "w.safetensors", "shrunk-w"),
    ],
)
def test_model_references_are_read_and_named_safely(
    text: str, name: str, pretrained: str | None, identity: str
) -> None:
    reference = ModelReference.parse(text)
    assert (reference.name, reference.pretrained, reference.id) == (name, pretrained, identity)


@pytest.mark.parametrize("text", ["", "ViT-B-16", "ViT-B-16/", "/tag", "@w.pt"])
def test_model_references_without_weights_are_refused(text: str) -> None:
    with pytest.raises(UnknownModelError):
        ModelReference.parse(text)


def test_the_catalogue_tells_what_can_be_explained_and_why_not() -> None:
    entries = {entry.name: entry for entry in catalogue()}
    assert entries["ViT-B-16"].refusal is None
    assert "laion2b_s34b_b88k" in entries["ViT-B-16"].tags
    assert entries["RN50"].refusal
    assert "starter" not in entries


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ViT-B-16/no_such_tag", UnknownModelError),
        ("nothing/tag", UnknownModelError),
        ("ViT-B-16@missing.pt", ModelLoadError),
    ],
)
def test_a_reference_is_checked_before_anything_is_loaded(
    text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ModelReference.parse(text).check()
    ModelReference.parse("ViT-B-16/laion2b_s34b_b88k").check()
    ModelReference.parse("starter").check()
