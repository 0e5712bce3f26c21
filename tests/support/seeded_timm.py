"""Small timm models with seeded weights, and the folder that timm saves of one."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from tests.support.architectures import disturb

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
