"""Small custom models, written as open_clip and timm save them."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file

from tests.support.architectures import config, disturb

PREPROCESSING = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}

TIMM_NAME = "vit_tiny_patch16_224"

TIMM_CONFIG = json.dumps({"architecture": TIMM_NAME, "num_classes": 0, "pretrained_cfg": {}})

Weights = dict[str, torch.Tensor]


def build(settings: dict[str, Any], folder: Path) -> torch.nn.Module:
    """Return the model of a config, built by open_clip's own factory, with seeded weights."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: torch.nn.Module = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    disturb(model)
    return model.eval()


def own_weights() -> Weights:
    """Return the weights of :func:`build` for the default config."""
    with tempfile.TemporaryDirectory() as folder:
        state: Weights = build(config(), Path(folder)).state_dict()
    return state


def write_own_folder(folder: Path, weights: Weights) -> Path:
    """Write a folder as open_clip saves it for the hub."""
    folder.mkdir()
    settings = {"model_cfg": config(), "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def settings_file(folder: Path, name: str = "own", **vision: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config(**vision)))
    return path


def timm_config(name: str, size: Any) -> dict[str, Any]:
    settings = config()
    settings["vision_cfg"] = {
        "timm_model_name": name,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": size,
    }
    return settings


def write_classifier(folder: Path, labels: Sequence[str] | None, classes: int) -> str:
    """Write a small classifier as timm saves it for the hub; return its reference.

    Args:
        folder: the folder to create.
        labels: a label for each class, or None for classes without names.
        classes: number of classes.
    """
    folder.mkdir()
    shrunk = {
        "depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64, "num_classes": classes
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(TIMM_NAME, **shrunk)
    save_file(model.state_dict(), folder / "model.safetensors")
    settings = {
        "architecture": TIMM_NAME,
        "num_classes": classes,
        "model_args": shrunk,
        "pretrained_cfg": {"license": "mit", "input_size": [3, 64, 64], "fixed_input_size": True},
    }
    if labels is not None:
        settings["label_names"] = list(labels)
    (folder / "config.json").write_text(json.dumps(settings))
    return f"timm:local-dir:{folder}"
