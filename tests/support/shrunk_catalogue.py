"""Every open_clip architecture, shrunk: real code, few narrow blocks, seeded weights."""

import copy
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import nn

from tests.support.architectures import CONTEXT_LENGTH, disturb

WIDTH = 64
_GRID = 4

_TEXT = {
    "context_length": CONTEXT_LENGTH,
    "vocab_size": 49408,
    "width": 16,
    "heads": 2,
    "layers": 1,
}


def shrunk_config(name: str, *, full_width: bool = False) -> dict[str, Any]:
    """Return an architecture's config with two narrow blocks, small input and small text tower.

    At full width only the number of blocks is reduced.
    """
    config = copy.deepcopy(open_clip.get_model_config(name))
    vision = config["vision_cfg"]
    if full_width:
        if "timm_model_name" not in vision:
            vision["layers"] = 2
        return {
            "embed_dim": config["embed_dim"],
            "quick_gelu": config.get("quick_gelu", False),
            "vision_cfg": vision,
            "text_cfg": dict(_TEXT),
        }
    if "timm_model_name" in vision:
        vision["image_size"] = _timm_overrides(vision["timm_model_name"]).get("img_size", 128)
    else:
        patch_size = vision["patch_size"]
        vision |= {"layers": 2, "width": WIDTH, "head_width": 16, "image_size": _GRID * patch_size}
        if "attn_pooler_heads" in vision:
            vision["attn_pooler_heads"] = 4
    return {
        "embed_dim": WIDTH,
        "quick_gelu": config.get("quick_gelu", False),
        "vision_cfg": vision,
        "text_cfg": dict(_TEXT),
    }


def shrunk_model(
    name: str, *, full_width: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0
) -> nn.Module:
    """Return the model of :func:`shrunk_config`, built by open_clip's own code."""
    config = shrunk_config(name, full_width=full_width)
    overrides = _fewer_blocks if full_width else _timm_overrides
    create = timm.create_model

    def create_shrunk(model_name: str, *args: Any, **options: Any) -> nn.Module:
        made: nn.Module = create(model_name, *args, **options, **overrides(model_name))
        return made

    with torch.random.fork_rng(devices=[]), patch("timm.create_model", create_shrunk):
        torch.manual_seed(seed)
        model: nn.Module = CustomTextCLIP(**config)
    disturb(model, seed)
    open_clip.set_model_preprocess_cfg(
        model, {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": config["vision_cfg"]["image_size"]}
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(dtype).eval()


def _fewer_blocks(name: str) -> dict[str, Any]:
    if name.startswith("swin"):
        return {"depths": (1, 1, 1, 2)}
    if name.startswith("fastvit"):
        return {"layers": (1,) * (4 if name.endswith(("mci3", "mci4")) else 3) + (2,)}
    return {"depth": 2}


def _timm_overrides(name: str) -> dict[str, Any]:
    if name.startswith("swin"):
        # The second block of the last stage attends in shifted windows.
        return {
            "img_size": 128,
            "window_size": 2,
            "depths": (1, 1, 1, 2),
            "embed_dim": 16,
            "num_heads": (1, 2, 4, 8),
        }
    if name.startswith("fastvit"):
        stages = 5 if name.endswith(("mci3", "mci4")) else 4
        return {"layers": (1,) * (stages - 1) + (2,), "embed_dims": (32,) * (stages - 1) + (WIDTH,)}
    narrow = {"depth": 2, "embed_dim": WIDTH, "num_heads": 4}
    if name.startswith("vitamin"):
        stem = VitCfg(
            embed_dim=(16, 32, WIDTH),
            depths=(1, 1, 1),
            stem_width=16,
            conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
            head_type="1d",
        )
        return {**narrow, "img_size": 64, "embed_cfg": stem}
    if name == "vit_base_mci_224":
        # Its stem is made for one width.
        return {"depth": 2, "img_size": 64}
    if name == "vit_so400m_patch14_siglip_384":
        # As at full size, the input is not a multiple of the patch size.
        return {**narrow, "img_size": 4 * 14 + 6}
    patch_size = next((size for size in (14, 32) if f"patch{size}" in name), 16)
    return {**narrow, "img_size": _GRID * patch_size}
