"""Small, seeded open_clip models, saved as a config and a checkpoint like any local model."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

CONTEXT_LENGTH = 16

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 16,
        "width": 64,
        "layers": 3,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}

FULL_SIZE: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 1,
    },
}


def save_model(folder: Path, name: str, config: dict[str, Any] | None = None) -> str:
    """Write a model with seeded random weights; return its `NAME@PATH` reference."""
    config_path, weights_path = folder / f"{name}.json", folder / f"{name}.safetensors"
    config_path.write_text(json.dumps(config or TINY))
    open_clip.add_model_config(config_path)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.create_model(name)
        # A fresh model pays nearly even attention; spread it so that heatmaps differ.
        for parameter in model.visual.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(1.5)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights_path)
    return f"{config_path}@{weights_path}"
