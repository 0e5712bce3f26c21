"""Models of one's own: configs and checkpoints, folders, other input sizes, and what is refused."""

import argparse
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from architectures import config, disturb
from hub_files import fill_cache
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save, save_file

from legrad_engine import Explainer, models, openclip_models
from legrad_engine.errors import LegradError, ModelLoadError, UnknownModelError
from legrad_engine.models import ModelReference

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")
PREPROCESSING = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
TIMM_NAME = "vit_tiny_patch16_224"

Weights = dict[str, torch.Tensor]


def build(settings: dict[str, Any], folder: Path) -> torch.nn.Module:
    """The model of a config, by open_clip's own factory, with seeded weights."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    disturb(model)
    return model.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    state: Weights = build(config(), tmp_path_factory.mktemp("config")).state_dict()
    return state


@pytest.fixture
def own_folder(tmp_path: Path, weights: Weights) -> Path:
    """What open_clip saves for the hub."""
    folder = tmp_path / "My model"
    folder.mkdir()
    settings = {"model_cfg": config(), "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def settings_file(folder: Path, name: str = "own", **vision: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config(**vision)))
    return path


def assert_same_model(explainer: Explainer, expected: torch.nn.Module) -> None:
    own = expected.state_dict()
    for name, value in explainer.model.state_dict().items():
        assert torch.equal(value, own[name]), name
    assert models.normalization(explainer.model) == models.normalization(expected)


def test_a_folder_is_loaded_as_open_clip_loads_it(own_folder: Path) -> None:
    name = f"local-dir:{own_folder}"
    explainer = Explainer.load(name)
    assert_same_model(explainer, open_clip.create_model(name))
    assert models.normalization(explainer.model)[0] == PREPROCESSING["mean"]
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
    assert models.normalization(explainer.model)[0] == PREPROCESSING["mean"]
    assert torch.equal(explainer.model.state_dict()["visual.proj"], weights["visual.proj"])


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module.", "_orig_mod."])
def test_what_training_programs_wrap_around_weights_is_taken_off(
    wrapper: str, tmp_path: Path, weights: Weights
) -> None:
    if wrapper.endswith("."):
        wrapped: dict[str, Any] = {wrapper + name: value for name, value in weights.items()}
    else:
        wrapped = {wrapper: weights, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(wrapped, tmp_path / "w.pt")
    explainer = Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.pt"))
    assert torch.equal(explainer.model.state_dict()["visual.proj"], weights["visual.proj"])


def test_a_config_of_a_built_in_name_does_not_replace_it(tmp_path: Path, weights: Weights) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    before = open_clip.get_model_config("ViT-B-16")
    path = settings_file(tmp_path, "ViT-B-16")
    assert Explainer.load(str(path), str(tmp_path / "w.safetensors")).default_size == 64
    assert open_clip.get_model_config("ViT-B-16") == before


def test_two_configs_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for name, layers in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        settings_file(tmp_path / name, layers=layers)
    assert Explainer.load(str(tmp_path / "a" / "own.json")).tower.depth == 1
    assert Explainer.load(str(tmp_path / "b" / "own.json")).tower.depth == 2
    assert Explainer.load(str(tmp_path / "a" / "own.json")).tower.depth == 1


@pytest.mark.parametrize(
    ("trained", "asked", "grid"),
    [
        (64, 112, (7, 7)),
        (112, 64, (4, 4)),
        (64, [96, 64], (6, 4)),
        ([96, 64], [96, 64], (6, 4)),
        ([96, 64], [192, 128], (12, 8)),
    ],
)
def test_weights_of_another_input_size_are_resampled(
    trained: Any, asked: Any, grid: tuple[int, int], tmp_path: Path
) -> None:
    original = build(config(image_size=trained), tmp_path)
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    path = settings_file(tmp_path, image_size=asked)
    explainer = Explainer.load(str(path), str(tmp_path / "w.safetensors"))
    assert explainer.tower.image_size == (
        (asked, asked) if isinstance(asked, int) else tuple(asked)
    )
    picture = PICTURE.resize((grid[1] * 16, grid[0] * 16))
    # Native fitting keeps the area of a square of this side.
    size = round(math.sqrt(grid[0] * grid[1])) * 16
    (explanation,) = explainer.explain(picture, ["a cat"], size=size, fit="native")
    assert explanation.grid == grid
    assert explanation.maps.shape == (1, *grid)
    # Our own towers resample at every other size as open_clip does when it loads.
    prepared = explainer.prepare(picture, size=size, fit="native")
    other = Explainer(original, open_clip.get_tokenizer("ViT-B-16"), name="original")
    assert torch.allclose(
        explainer.trace([prepared]).embeddings, other.trace([prepared]).embeddings, atol=1e-5
    )


def test_weights_of_another_size_are_resampled_as_open_clip_does(
    tmp_path: Path, weights: Weights
) -> None:
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    settings = config(image_size=[96, 64])
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    name = f"local-dir:{tmp_path}"
    theirs = open_clip.create_model(name).state_dict()
    ours = models.load(name).model.state_dict()
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], atol=1e-6), key


def timm_config(name: str, size: Any) -> dict[str, Any]:
    settings = config()
    settings["vision_cfg"] = {
        "timm_model_name": name,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": size,
    }
    return settings


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 96),
        ("vit_tiny_patch16_224", [96, 64]),
        ("eva02_tiny_patch14_224", 112),
        ("eva02_tiny_patch14_224", [112, 56]),
        ("swin_tiny_patch4_window7_224", [448, 224]),
    ],
)
def test_a_timm_tower_takes_another_input_size(name: str, size: Any, tmp_path: Path) -> None:
    built = build(timm_config(name, 224), tmp_path)
    save_file(built.state_dict(), tmp_path / "native.safetensors")
    built.visual.set_input_size(size)
    save_file(built.state_dict(), tmp_path / "tuned.safetensors")
    (tmp_path / "own.json").write_text(json.dumps(timm_config(name, size)))
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = built.encode_image(pixels)
        for file in ("native", "tuned"):
            loaded = models.load(str(tmp_path / "own.json"), str(tmp_path / f"{file}.safetensors"))
            assert tuple(loaded.model.visual.image_size) == (height, width)
            assert torch.allclose(loaded.model.encode_image(pixels), expected, atol=1e-5), file


def test_weights_of_a_third_size_fit_a_timm_tower_of_yet_another(tmp_path: Path) -> None:
    built = build(timm_config(TIMM_NAME, 224), tmp_path)
    built.visual.set_input_size([128, 128])
    save_file(built.state_dict(), tmp_path / "w.safetensors")
    built.visual.set_input_size([96, 64])
    (tmp_path / "own.json").write_text(json.dumps(timm_config(TIMM_NAME, [96, 64])))
    model = models.load(str(tmp_path / "own.json"), str(tmp_path / "w.safetensors")).model
    own = built.visual.trunk.pos_embed
    assert torch.allclose(model.visual.trunk.pos_embed, own, atol=1e-6)


def test_a_size_that_a_timm_tower_cannot_take_is_refused(tmp_path: Path) -> None:
    built = build(timm_config(TIMM_NAME, 224), tmp_path)
    save_file(built.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "own.json").write_text(json.dumps(timm_config(TIMM_NAME, [8, 8])))
    with pytest.raises(ModelLoadError, match="image_size"):
        models.load(str(tmp_path / "own.json"), str(tmp_path / "w.safetensors"))


def test_position_embeddings_of_an_unknown_grid_are_refused(
    tmp_path: Path, weights: Weights
) -> None:
    positions = torch.zeros(1 + 15, weights["visual.positional_embedding"].shape[1])
    save_file({**weights, "visual.positional_embedding": positions}, tmp_path / "w.safetensors")
    with pytest.raises(ModelLoadError, match=r"15 patches.*image_size"):
        Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.safetensors"))


def test_a_checkpoint_that_does_not_fit_is_refused_key_by_key(
    tmp_path: Path, weights: Weights
) -> None:
    changed = {
        **{name: value for name, value in weights.items() if "resblocks.2." not in name},
        "visual.proj": torch.zeros(3, 5),
        "extra.one": torch.zeros(1),
        "extra.two": torch.zeros(1),
    }
    missing = len(weights) - len(changed) + 2
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(ModelLoadError) as refusal:
        Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.safetensors"))
    message = str(refusal.value)
    assert refusal.value.field == "model"
    assert f"{missing} missing (visual.transformer.resblocks.2.ln_1.weight," in message
    assert f"and {missing - 4} more" in message
    assert "2 unexpected (extra.one, extra.two)" in message
    assert "1 of another shape (visual.proj [3, 5] where the config makes it [32, 24])" in message
    assert len(message) < 700
    assert "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"logit_bias": torch.zeros(())},
        {"positional_embedding": torch.zeros(3)},
        {"positional_embedding": torch.zeros(8, 99)},
        {"logit_scale": torch.zeros(2)},
        {"visual.positional_embedding": torch.zeros(17)},
        {"visual.positional_embedding": torch.zeros(0, 32)},
    ],
    ids=str,
)
def test_odd_checkpoints_are_refused_by_name(
    change: Weights, tmp_path: Path, weights: Weights
) -> None:
    save_file({**weights, **change}, tmp_path / "w.safetensors")
    with pytest.raises(ModelLoadError, match="|".join(change)):
        Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.safetensors"))


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for content in ([1, 2], {}, {"state_dict": {}}, "text", 3):
        torch.save(content, path)
        with pytest.raises(ModelLoadError, match="holds no weights"):
            Explainer.load(str(settings_file(tmp_path)), str(path))
    torch.save({"visual.proj": "text", "epoch": 3}, path)
    with pytest.raises(ModelLoadError, match=r"visual\.proj"):
        Explainer.load(str(settings_file(tmp_path)), str(path))


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "cut short", "a page of a portal"])
def test_a_damaged_checkpoint_is_refused_without_advice_to_read_it_unsafely(
    suffix: str, damage: str, tmp_path: Path, weights: Weights
) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "garbage": b"\x00\xff not a checkpoint" * 9,
            "cut short": whole[: len(whole) // 2],
            "a page of a portal": b"<!DOCTYPE html><html>sign in</html>",
        }[damage]
    )
    with pytest.raises(ModelLoadError, match="damaged, cut short, or no checkpoint") as refusal:
        Explainer.load(str(settings_file(tmp_path)), str(path))
    assert "weights_only" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


TIMM_CONFIG = json.dumps({"architecture": TIMM_NAME, "num_classes": 0, "pretrained_cfg": {}})


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "source",
    [
        "ViT-B-32@PATH",
        "CONFIG@PATH",
        "ViT-B-32/openai",
        "local-dir:",
        "hf-hub:",
        f"timm:{TIMM_NAME}",
        f"timm:{TIMM_NAME}@PATH",
        "timm:local-dir:",
        "timm:hf-hub:",
    ],
)
def test_no_path_unpickles_code(source: str, legacy: bool, tmp_path: Path, offline: Path) -> None:
    marker = tmp_path / "executed"
    torch.save(
        {"state_dict": Malicious(marker)},
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=not legacy,
    )
    pickled = (tmp_path / "pytorch_model.bin").read_bytes()
    own_config = json.dumps({"model_cfg": config()}).encode()
    (tmp_path / "open_clip_config.json").write_bytes(own_config)
    (tmp_path / "config.json").write_text(TIMM_CONFIG)
    fill_cache(
        offline,
        "org/own",
        {
            "open_clip_config.json": own_config,
            "open_clip_pytorch_model.bin": pickled,
            "config.json": TIMM_CONFIG.encode(),
            "pytorch_model.bin": pickled,
        },
    )
    hub_name = open_clip.get_pretrained_cfg("ViT-B-32", "openai")["hf_hub"].strip("/")
    fill_cache(offline, hub_name, {"open_clip_pytorch_model.bin": pickled})
    fill_cache(
        offline, timm.models.get_pretrained_cfg(TIMM_NAME).hf_hub_id, {"pytorch_model.bin": pickled}
    )
    text = source.replace("CONFIG", str(settings_file(tmp_path)))
    text = text.replace("PATH", str(tmp_path / "pytorch_model.bin"))
    text += {"local-dir:": str(tmp_path), "hf-hub:": "org/own"}.get(
        source.removeprefix("timm:"), ""
    )
    reference = ModelReference.parse(text)
    with pytest.raises(ModelLoadError, match="convert the checkpoint to safetensors"):
        models.load(reference.name, reference.pretrained)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("hf-hub:Org/Repo.v1", "org-repo.v1"),
        ("local-dir:/a/b/My model/", "my-model"),
        ("timm:vit_tiny_patch16_224", "timm-vit_tiny_patch16_224"),
        (
            "timm:vit_tiny_patch16_224.augreg_in21k",
            "timm-vit_tiny_patch16_224.augreg_in21k",
        ),
        ("timm:vit_tiny_patch16_224@/a/b/Tuned.pth", "timm-vit_tiny_patch16_224-tuned"),
        ("timm:hf-hub:org/repo@v2", "timm-org-repo-v2"),
        ("timm:local-dir:/a/b@c/d", "timm-d"),
        ("local-dir:/a/b@c/x.json@d", "x.json-d"),
        ("/a@b/own.json@w@2.pt", "own-w-2"),
    ],
)
def test_references_with_a_schema_are_read_and_named_safely(text: str, identity: str) -> None:
    reference = ModelReference.parse(text)
    assert reference.id == identity
    assert reference == ModelReference.parse(f" {text}\n")
    assert len({reference, ModelReference.parse(text)}) == 1


def test_a_message_can_be_freed_of_the_folders_of_this_machine(
    own_folder: Path, offline: Path
) -> None:
    (own_folder / "open_clip_model.safetensors").write_bytes(b"")
    settings_file(own_folder)
    fill_cache(offline, "org/own", {path.name: path.read_bytes() for path in own_folder.iterdir()})
    for text in (
        f"local-dir:{own_folder}/",
        f"timm:local-dir:{own_folder}",
        f"{own_folder}/own.json@{own_folder}/open_clip_model.safetensors",
        f"{own_folder}/missing.json@w.pt",
        f"ViT-B-16@{own_folder}/missing.pt",
        "hf-hub:org/own",
    ):
        reference = ModelReference.parse(text)
        with pytest.raises(LegradError) as refusal:
            models.load(reference.name, reference.pretrained)
        assert str(own_folder.parent) not in reference.without_folders(str(refusal.value))
        assert str(own_folder.parent) not in reference.title


def test_a_name_of_no_letters_still_has_an_id() -> None:
    first, second = (ModelReference.parse(f"local-dir:/{name}") for name in ("模型", "模"))
    assert first.id.startswith("model-")
    assert first.id != second.id


@pytest.mark.parametrize(
    "text",
    ["hf-hub:", "local-dir:", "timm:", "timm:@w.pt", "timm:a@", "timm:hf-hub:", ".json@w.pt"],
)
def test_a_schema_without_a_model_is_refused(text: str) -> None:
    with pytest.raises(UnknownModelError) as refusal:
        ModelReference.parse(text)
    assert refusal.value.field == "model"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("hf-hub:a/b/c", UnknownModelError, "ORG/REPO"),
        ("hf-hub:org/own@v1", UnknownModelError, "ORG/REPO"),
        ("hf-hub:../../etc", UnknownModelError, "ORG/REPO"),
        ("timm:hf-hub:a b", UnknownModelError, "ORG/REPO"),
        ("local-dir:FOLDER/missing", UnknownModelError, "no folder"),
        ("local-dir:FOLDER/empty", UnknownModelError, "open_clip_config.json"),
        ("local-dir:FOLDER/no weights", ModelLoadError, "open_clip_model.safetensors"),
        ("local-dir:FOLDER/damaged", ModelLoadError, "JSON"),
        ("FOLDER/missing.json@w.pt", UnknownModelError, "no model config"),
        ("timm:no_such_model", UnknownModelError, "no_such_model"),
        ("timm:vit_tiny_patch16_224.nope", UnknownModelError, "augreg_in21k"),
        ("timm:vit_tiny_patch16_224@FOLDER/missing.pt", ModelLoadError, "no checkpoint"),
        ("timm:vit_huge_patch14_gap_224.in1k_ijepa", ModelLoadError, "https://"),
        ("timm:vit_base_patch16_gap_224", ModelLoadError, "no weights"),
        ("timm:local-dir:FOLDER/missing", UnknownModelError, "no folder"),
        ("timm:local-dir:FOLDER/empty", UnknownModelError, "config.json"),
        ("timm:local-dir:FOLDER/no weights", ModelLoadError, "model.safetensors"),
    ],
)
def test_what_cannot_be_loaded_is_known_before_it_is_tried(
    text: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    for name, content in (("empty", None), ("no weights", json.dumps({"model_cfg": config()}))):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "open_clip_config.json").write_text(content)
            (tmp_path / name / "config.json").write_text(TIMM_CONFIG)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "open_clip_config.json").write_text("{")
    reference = ModelReference.parse(text.replace("FOLDER", str(tmp_path)))
    with pytest.raises(error, match=says) as refusal:
        reference.check()
    assert refusal.value.field == "model"  # type: ignore[attr-defined]
    with pytest.raises(error, match=says):
        models.load(reference.name, reference.pretrained)


@pytest.mark.parametrize("name", ["hf-hub:org/own", "local-dir:x", "timm:hf-hub:o/r"])
def test_weights_beside_a_name_that_brings_its_own_are_refused(name: str) -> None:
    with pytest.raises(UnknownModelError, match="brings its own weights"):
        Explainer.load(name, "w.pt")


def test_a_config_that_open_clip_cannot_build_is_refused(tmp_path: Path, weights: Weights) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    for change in ({"width": "wide"}, {"no_such_option": 1}, {"timm_model_name": "nope"}):
        settings = config()
        settings["vision_cfg"] |= change
        (tmp_path / "own.json").write_text(json.dumps(settings))
        with pytest.raises(ModelLoadError, match="describes no model"):
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
        openclip_models.build(settings, {})
    fill_cache(offline, "org/tower", {"config.json": TIMM_CONFIG.encode()})
    model = openclip_models.build(settings, {})
    assert isinstance(model.visual.trunk, timm.models.VisionTransformer)


def test_the_arguments_that_timm_leaves_beside_the_weights_do_not_hinder(
    tmp_path: Path, weights: Weights
) -> None:
    left = {"args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save({"state_dict": weights, **left}, tmp_path / "w.pth.tar")
    state = timm.create_model(TIMM_NAME, num_classes=0).state_dict()
    torch.save({"state_dict": state, **left}, tmp_path / "timm.pth.tar")
    names = [(str(settings_file(tmp_path)), "w.pth.tar"), (f"timm:{TIMM_NAME}", "timm.pth.tar")]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pair: models.load(pair[0], str(tmp_path / pair[1])), names * 8))


FORMS = {
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
    ours = models.load(name).model
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)
    # open_clip's decoder leaves a parameter as memory was; whatever it is, it is loaded.
    torch.testing.assert_close(
        ours.state_dict(), theirs.state_dict(), atol=0, rtol=0, equal_nan=True
    )
    assert open_clip.get_model_preprocess_cfg(ours) == open_clip.get_model_preprocess_cfg(theirs)


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
