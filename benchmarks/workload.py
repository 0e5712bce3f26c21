"""What every benchmark runs on: ViT-B/16 with seeded random weights, pictures and targets."""

from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

ARCHITECTURE = "ViT-B-16"
EMBEDDING_SIZE = 512


def write_weights(path: Path) -> None:
    """Saves ViT-B/16's seeded random weights."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config(ARCHITECTURE))
    save_file(model.state_dict(), path)


def targets(count: int, size: int = EMBEDDING_SIZE) -> Tensor:
    """Unit vectors in the joint space, as a text tower would give."""
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(count, size, generator=generator), dim=-1)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with coarse and fine structure, so that JPEG has something to encode."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = generator.normal(0, 8, smooth.shape)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
