"""Workload of the benchmarks: ViT-B/16 with seeded random weights, pictures and targets."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

ARCHITECTURE = "ViT-B-16"
EMBEDDING_SIZE = 512

_SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 96,
        "patch_size": 16,
        "width": 128,
        "layers": 4,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
    },
}

# Costs next to nothing, so that what remains is the service. The text tower is that of a CLIP.
_NEARLY_FREE: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 224,
        "patch_size": 16,
        "width": 64,
        "layers": 1,
        "head_width": 32,
    },
    "text_cfg": _SMALL["text_cfg"],
}


def write_weights(path: Path) -> None:
    """Save seeded random weights of ViT-B/16."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config(ARCHITECTURE))
    save_file(model.state_dict(), path)


def write_small_model(folder: Path) -> str:
    """Save a small CLIP with seeded random weights; return its ``CONFIG@PATH`` reference."""
    return _write_model(folder, "small", _SMALL)


def write_nearly_free_model(folder: Path) -> str:
    """Save a CLIP of one block of width 64; return its ``CONFIG@PATH`` reference."""
    return _write_model(folder, "nearly-free", _NEARLY_FREE)


def _write_model(folder: Path, name: str, architecture: dict[str, Any]) -> str:
    config, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
    config.write_text(json.dumps(architecture))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**architecture).state_dict(), weights)
    return f"{config}@{weights}"


def targets(count: int, size: int = EMBEDDING_SIZE) -> Tensor:
    """Make random unit vectors in the joint space, in place of text embeddings."""
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(count, size, generator=generator), dim=-1)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Make a picture with coarse and fine structure, like a photograph for JPEG."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    smooth = np.asarray(enlarged(coarse, width, height))
    grain = generator.normal(0, 8, smooth.shape)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def enlarged(coarse: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    """Enlarge a few pixels, uint8 [rows, columns, 3], to a smooth picture."""
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(width: int, height: int, seed: int) -> bytes:
    """Encode :func:`picture` as a JPEG file."""
    buffer = io.BytesIO()
    picture(width, height, seed).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def unseen(picture: bytes) -> bytes:
    """Append random bytes to a JPEG, so that no cache knows it; decoders ignore them."""
    return picture + os.urandom(8)
