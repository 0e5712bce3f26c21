"""Image halves of known architectures with seeded random weights, which do not affect timing."""

from typing import Any

import open_clip
import torch
from open_clip.model import CustomTextCLIP
from torch import nn

# Minimal, because no measurement of these models encodes text.
_TEXT = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}


def open_clip_model(architecture: str, **vision: Any) -> nn.Module:
    """Build an open_clip architecture with a minimal text tower.

    Args:
        architecture: a name that open_clip knows.
        vision: entries of its ``vision_cfg`` to replace.
    """
    config = open_clip.get_model_config(architecture)
    chosen = config["vision_cfg"] | vision
    torch.manual_seed(0)
    model: nn.Module = CustomTextCLIP(config["embed_dim"], chosen, _TEXT).eval()
    open_clip.set_model_preprocess_cfg(
        model, {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": chosen.get("image_size", 224)}
    )
    return model.requires_grad_(False)
