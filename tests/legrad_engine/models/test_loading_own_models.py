"""Models of one's own: configs, folders and hub names, held to what open_clip makes of them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save, save_file

from legrad_engine import Explainer, models
from legrad_engine.errors import LegradError, ModelLoadError
from legrad_engine.models import ModelReference, openclip_models
from tests.support.architectures import config
from tests.support.hub_files import fill_cache
from tests.support.own_models import (
    PREPROCESSING,
    TIMM_CONFIG,
    Weights,
    build,
    own_weights,
    settings_file,
    timm_config,
    write_own_folder,
)

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return own_weights()


@pytest.fixture
def own_folder(tmp_path: Path, weights: Weights) -> Path:
    """What open_clip saves for the hub."""
    return write_own_folder(tmp_path / "My model", weights)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def assert_same_model(explainer: Explainer, expected: torch.nn.Module) -> None:
    own = expected.state_dict()
    for name, value in explainer.model.state_dict().items():
        assert torch.equal(value, own[name]), name
    found, attached = explainer.preprocessing, models.preprocessing_of(expected)
    assert (found.mean, found.std) == (attached.mean, attached.std)
    assert found.interpolation == attached.interpolation


def test_a_folder_is_loaded_as_open_clip_loads_it(own_folder: Path) -> None:
    name = f"local-dir:{own_folder}"
    explainer = Explainer.load(name)
    assert_same_model(explainer, open_clip.create_model(name))
    assert explainer.preprocessing.mean == tuple(PREPROCESSING["mean"])
    assert not explainer.preprocessing.is_guess
    assert explainer.name == "local-dir:My model"
    (explanation,) = explainer.explain(PICTURE, ["a cat"])
    assert explanation.maps.shape == (1, 4, 4)


def test_of_several_checkpoints_in_a_folder_open_clip_s_choice_is_taken(
    own_folder: Path, weights: Weights
) -> None:
    other = {name: value + 1 for name, value in weights.items()}
    torch.save(other, own_folder / "open_clip_pytorch_model.bin")
    save_file(other, own_folder / "a.safetensors")
    name = f"local-dir:{own_folder}"
    assert_same_model(Explainer.load(name), open_clip.create_model(name))
    (own_folder / "open_clip_model.safetensors").unlink()
    assert_same_model(Explainer.load(name), open_clip.create_model(name))


def test_a_hub_name_is_loaded_from_the_offline_cache(own_folder: Path, offline: Path) -> None:
    files = {path.name: path.read_bytes() for path in own_folder.iterdir()}
    fill_cache(offline, "org/Model-B", files)
    explainer = Explainer.load("hf-hub:org/Model-B")
    assert_same_model(explainer, open_clip.create_model(f"local-dir:{own_folder}"))
    assert explainer.name == "hf-hub:org/Model-B"
    tokenizer = open_clip.get_tokenizer("hf-hub:org/Model-B")
    assert torch.equal(
        explainer.text._tokenizer(["a cat"]),  # type: ignore[union-attr]
        tokenizer(["a cat"]),
    )


def test_a_hub_name_with_a_pickle_alone_is_loaded_from_the_offline_cache(
    own_folder: Path, offline: Path, weights: Weights
) -> None:
    torch.save(weights, own_folder / "open_clip_pytorch_model.bin")
    (own_folder / "open_clip_model.safetensors").unlink()
    fill_cache(offline, "org/own", {path.name: path.read_bytes() for path in own_folder.iterdir()})
    assert_same_model(
        Explainer.load("hf-hub:org/own"), open_clip.create_model(f"local-dir:{own_folder}")
    )


def test_a_config_saved_for_the_hub_takes_another_checkpoint(
    own_folder: Path, tmp_path: Path, weights: Weights
) -> None:
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "w.pth")
    reference = ModelReference.parse(f"{own_folder}/open_clip_config.json@{tmp_path}/w.pth")
    reference.check()
    explainer = Explainer.load(reference.name, reference.pretrained)
    assert explainer.preprocessing.mean == tuple(PREPROCESSING["mean"])
    assert not explainer.preprocessing.is_guess
    assert torch.equal(explainer.model.state_dict()["visual.proj"], weights["visual.proj"])


def test_a_config_of_a_built_in_name_does_not_replace_it(tmp_path: Path, weights: Weights) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    before = open_clip.get_model_config("ViT-B-16")
    path = settings_file(tmp_path, "ViT-B-16")
    assert Explainer.load(str(path), str(tmp_path / "w.safetensors")).own_size == (64, 64)
    assert open_clip.get_model_config("ViT-B-16") == before


def test_two_configs_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for name, layers in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        settings_file(tmp_path / name, layers=layers)
    assert Explainer.load(str(tmp_path / "a" / "own.json")).tower.depth == 1
    assert Explainer.load(str(tmp_path / "b" / "own.json")).tower.depth == 2
    assert Explainer.load(str(tmp_path / "a" / "own.json")).tower.depth == 1


def test_a_config_that_open_clip_cannot_build_is_refused(tmp_path: Path, weights: Weights) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    for change in ({"width": "wide"}, {"no_such_option": 1}, {"timm_model_name": "nope"}):
        settings = config()
        settings["vision_cfg"] |= change
        (tmp_path / "own.json").write_text(json.dumps(settings))
        with pytest.raises(ModelLoadError, match="cannot build a model"):
            Explainer.load(str(tmp_path / "own.json"), str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "text",
    [
        {"hf_model_name": 3},
        {"hf_tokenizer_name": ["a"]},
        {"tokenizer_kwargs": 3},
        {"tokenizer_kwargs": {"nonsense": 1}},
        {"context_length": "long"},
        {"vocab_size": -1},
        {"width": None},
    ],
    ids=str,
)
def test_a_config_of_nonsense_is_refused(
    text: dict[str, Any], own_folder: Path, offline: Path
) -> None:
    settings = config()
    settings["text_cfg"] |= text
    (own_folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    with pytest.raises(LegradError) as refusal:
        Explainer.load(f"local-dir:{own_folder}")
    assert refusal.value.field == "model"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", ["red", [], [1, 2], [1, 2, "3"], [1, 2, math.nan], 3, {}])
def test_a_normalisation_of_nonsense_is_refused(name: str, value: Any, own_folder: Path) -> None:
    settings = {"model_cfg": config(), "preprocess_cfg": {name: value}}
    (own_folder / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError, match="mean and std"):
        Explainer.load(f"local-dir:{own_folder}")


def test_a_tower_of_timm_s_hub_is_built_from_the_offline_cache(offline: Path) -> None:
    settings = timm_config("hf-hub:org/tower", 224)
    with pytest.raises(ModelLoadError, match="offline cache"):
        openclip_models.build(settings)
    fill_cache(offline, "org/tower", {"config.json": TIMM_CONFIG.encode()})
    model: Any = openclip_models.build(settings)
    assert isinstance(model.visual.trunk, timm.models.VisionTransformer)


FORMS: dict[str, dict[str, Any]] = {
    "text in its own module": {"custom_text": True},
    "sigmoid": {"custom_text": True, "init_logit_bias": -10.0},
    "captioning": {
        "custom_text": True,
        "multimodal_cfg": {"width": 24, "heads": 2, "layers": 1, "context_length": 16},
    },
    "quick GELU": {"quick_gelu": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_model_is_what_open_clip_makes_of_it(form: str, tmp_path: Path) -> None:
    settings = {**config(), **FORMS[form]}
    if form == "captioning":
        settings["vision_cfg"] |= {"attentional_pool": True, "output_tokens": True}
        settings["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
    original = build(settings, tmp_path)
    save_file(original.state_dict(), tmp_path / "open_clip_model.safetensors")
    name = f"local-dir:{tmp_path}"
    theirs = open_clip.create_model(name).eval()
    loaded = models.load(name)
    ours = loaded.model
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)
    # open_clip's decoder leaves a parameter as memory was; whatever it is, it is loaded.
    torch.testing.assert_close(
        ours.state_dict(), theirs.state_dict(), atol=0, rtol=0, equal_nan=True
    )
    attached = models.preprocessing_of(theirs)
    assert loaded.preprocessing.mean == attached.mean
    assert loaded.preprocessing.std == attached.std
    assert loaded.preprocessing.interpolation == attached.interpolation


def test_weights_of_the_older_layout_fill_a_model_of_the_newer(
    tmp_path: Path, weights: Weights
) -> None:
    settings = {**config(), "custom_text": True, "init_logit_bias": -10.0}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    older = {**weights, "logit_scale": weights["logit_scale"].reshape(1)}
    save_file(older, tmp_path / "open_clip_model.safetensors")
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").state_dict()
    for key, value in models.load(f"local-dir:{tmp_path}").model.state_dict().items():
        assert torch.equal(value, theirs[key]), key


def test_the_licence_of_a_tag_is_told_where_it_is_known(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = open_clip.get_model_config("ViT-B-32-quickgelu")
    settings["vision_cfg"] |= {"layers": 1, "width": 64}
    settings["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", settings)
    weights = save(open_clip.CLIP(**settings).state_dict())
    for tag in ("metaclip_400m", "openai"):
        repository = open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", tag)["hf_hub"].strip("/")
        fill_cache(offline, repository, {"open_clip_model.safetensors": weights})
    assert Explainer.load("ViT-B-32-quickgelu", "metaclip_400m").licence == "cc-by-nc-4.0"
    assert Explainer.load("ViT-B-32-quickgelu", "openai").licence is not None


@pytest.mark.parametrize(
    ("reference", "mean", "interpolation"),
    [
        ("PE-Core-T-16-384@PATH", (0.5, 0.5, 0.5), "bilinear"),
        ("PE-Core-T-16-384/meta@PATH", (0.5, 0.5, 0.5), "bilinear"),
    ],
)
def test_a_checkpoint_is_explained_as_its_architecture_was_published(
    reference: str,
    mean: tuple[float, ...],
    interpolation: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = "PE-Core-T-16-384"
    settings = open_clip.get_model_config(name)
    settings["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, settings)
    torch.save(openclip_models.build(settings).state_dict(), tmp_path / "w.pt")
    explainer = Explainer.load(reference.replace("PATH", str(tmp_path / "w.pt")))
    assert explainer.preprocessing.mean == mean
    assert explainer.preprocessing.interpolation == interpolation
    assert not explainer.preprocessing.is_guess
    # What open_clip makes of the picture for the published weights.
    tag = open_clip.get_pretrained_cfg(name, "meta")
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(
            size=384, **{key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode")}
        ),
        is_train=False,
    )
    prepared = explainer.prepare(PICTURE)
    np.testing.assert_allclose(explainer.input_of([prepared])[0], transform(PICTURE), atol=1e-6)
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("changes", "is_guess"),
    [({}, True), ({"preprocess_cfg": PREPROCESSING}, False)],
    ids=["config alone", "config with preprocessing"],
)
def test_a_guess_is_warned_of_and_certainty_is_not(
    changes: dict[str, Any],
    is_guess: bool,
    tmp_path: Path,
    weights: Weights,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    (tmp_path / "own.json").write_text(json.dumps({"model_cfg": config(), **changes}))
    explainer = Explainer.load(f"{tmp_path}/own.json@{tmp_path}/w.safetensors")
    assert explainer.preprocessing.is_guess is is_guess
    told = [each.getMessage() for each in caplog.records if "are a guess" in each.getMessage()]
    assert bool(told) is is_guess
    assert all("NAME/TAG@PATH" in each for each in told)
    assert all(str(tmp_path) not in each for each in told)


def test_padding_has_the_fill_colour_of_the_model_s_config(
    tmp_path: Path, weights: Weights
) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    numbers = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    own = {"model_cfg": config(), "preprocess_cfg": {**numbers, "fill_color": 255}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    explainer = Explainer.load(f"{tmp_path}/own.json@{tmp_path}/w.safetensors")
    prepared = explainer.prepare(PICTURE, fit="pad")
    _, top, _, bottom = prepared.geometry.content_box
    assert top > 0
    pixels = explainer.input_of([prepared])[0]
    assert (pixels[:, :top] == 1).all()
    assert (pixels[:, bottom:] == 1).all()
