"""Checkpoints: what is taken off them, what does not fit, what is damaged, what is never run."""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from legrad_engine import Explainer, models
from legrad_engine.errors import ModelLoadError
from legrad_engine.models import ModelReference, checkpoints
from tests.support.architectures import config
from tests.support.hub_files import fill_cache
from tests.support.own_models import (
    TIMM_CONFIG,
    TIMM_NAME,
    Weights,
    own_weights,
    settings_file,
)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return own_weights()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


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
    contents: list[object] = [
        [1, 2],
        {},
        {"state_dict": {}},
        "text",
        3,
        {"visual.proj": "text", "epoch": 3},
        {3: torch.zeros(2)},
    ]
    for content in contents:
        torch.save(content, path)
        with pytest.raises(ModelLoadError, match="holds no weights"):
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
    with pytest.raises(ModelLoadError, match="damaged, truncated, or not a checkpoint") as refusal:
        Explainer.load(str(settings_file(tmp_path)), str(path))
    assert "weights_only" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


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
    with pytest.raises(ModelLoadError, match="convert it to safetensors"):
        models.load(reference.name, reference.pretrained)
    assert not marker.exists()


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


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
def test_weights_that_are_no_real_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = own_weights()
    weights["visual.proj"] = weights["visual.proj"].to(dtype)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelLoadError, match=r"visual\.proj as torch\."):
        Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.safetensors"))


def test_values_that_training_programs_leave_beside_the_weights_are_passed_over(
    tmp_path: Path, weights: Weights
) -> None:
    left = {
        "epoch": np.int64(3),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(0.1)}]},
        "losses": np.linspace(0, 1, 5),
        "best": np.float32(0.9),
        "output": Path("/somewhere"),
        "args": argparse.Namespace(lr=np.float64(0.1), output=tmp_path),
    }
    for legacy in (False, True):
        torch.save(
            {"state_dict": weights, **left},
            tmp_path / "w.pt",
            _use_new_zipfile_serialization=not legacy,
        )
        explainer = Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.pt"))
        assert torch.equal(explainer.model.state_dict()["visual.proj"], weights["visual.proj"])


def test_numpy_s_own_code_does_not_run_for_a_value_that_is_passed_over(
    tmp_path: Path, weights: Weights
) -> None:
    # A dtype whose state NumPy itself would refuse.
    class Crafted:
        def __reduce__(self) -> Any:
            return np.dtype, ("f8", False, True), (3, "nonsense", None, 7, -1, -1, -1, 0)

    torch.save({"state_dict": weights, "epoch": Crafted()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="endian"):
        torch.load(tmp_path / "w.pt", weights_only=False)
    read = checkpoints.read(tmp_path / "w.pt")
    assert read.keys() == weights.keys()


def test_arrays_are_no_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": {"visual.proj": np.zeros(3)}}, tmp_path / "w.pt")
    with pytest.raises(ModelLoadError, match="holds no weights"):
        checkpoints.read(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.nn.Linear(2, 2), r"a whole model.*\.state_dict\(\)"),
        ({"state_dict": {"a": torch.zeros(1)}, "when": Fraction(1, 2)}, r'\["state_dict"\]'),
    ],
    ids=["whole model", "an object beside the weights"],
)
def test_a_refusal_names_the_code_that_converts_the_file(
    content: object, says: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelLoadError, match=says):
        checkpoints.read(tmp_path / "w.pt")


def test_a_torchscript_program_is_refused_with_the_code_that_converts_it(
    tmp_path: Path, weights: Weights
) -> None:
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, tmp_path / "w.pt")
    with pytest.raises(ModelLoadError, match=r"torch\.jit\.load.*\.state_dict\(\)"):
        checkpoints.read(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda own: {
                name if name == "logit_scale" else f"vision_model.{name}": value
                for name, value in own.items()
            },
            "transformers",
        ),
        (lambda own: {**own, "visual.proj.lora_A.weight": torch.zeros(1)}, "merge_and_unload"),
        (
            lambda own: {name: value for name, value in own.items() if "visual." in name},
            "state_dict of the whole model",
        ),
    ],
    ids=["transformers", "adapter", "image half"],
)
def test_a_misfit_names_its_likely_fix(
    change: Callable[[Weights], Weights], says: str, tmp_path: Path, weights: Weights
) -> None:
    save_file(change(weights), tmp_path / "w.safetensors")
    with pytest.raises(ModelLoadError, match=says):
        Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.safetensors"))
