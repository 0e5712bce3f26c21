"""Small plain timm models with seeded weights, one of every kind that a family takes."""

from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.support.architectures import disturb

NARROW = {"depth": 2, "embed_dim": 64, "num_heads": 4}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**NARROW, "img_size": 64},
    "vit_base_patch16_clip_quickgelu_224": {**NARROW, "img_size": 64},
    "deit_tiny_distilled_patch16_224": {**NARROW, "img_size": 64},
    "deit3_small_patch16_224": {**NARROW, "img_size": 64},
    "vit_small_patch14_dinov2": {**NARROW, "img_size": 56},
    "vit_small_patch14_reg4_dinov2": {**NARROW, "img_size": 56},
    "vit_giant_patch14_reg4_dinov2": {**NARROW, "embed_dim": 96, "img_size": 56},
    "vit_small_patch16_dinov3": {**NARROW, "img_size": 64},
    "vit_medium_patch16_rope_reg1_gap_256": {**NARROW, "img_size": 64},
    "vit_so150m2_patch16_reg1_gap_256": {**NARROW, "img_size": 64},
    "vit_base_patch16_siglip_224": {**NARROW, "img_size": 64, "num_classes": 5},
    "vit_relpos_small_patch16_224": {**NARROW, "img_size": 64},
    "vit_relpos_small_patch16_rpn_224": {**NARROW, "img_size": 64},
    "vit_small_patch16_36x1_224": {**NARROW, "img_size": 64},
    "vit_base_patch16_rpn_224": {**NARROW, "img_size": 64},
    "eva02_tiny_patch14_224": {**NARROW, "img_size": 56},
    "beit_base_patch16_224": {**NARROW, "img_size": 64},
    "beitv2_base_patch16_224": {
        **NARROW,
        "img_size": 64,
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": True,
        "use_abs_pos_emb": True,
        "global_pool": "token",
    },
    "swin_tiny_patch4_window7_224": {
        "img_size": 128,
        "window_size": 2,
        "depths": (1, 1, 1, 2),
        "embed_dim": 16,
        "num_heads": (1, 2, 4, 8),
    },
    "fastvit_sa12": {"layers": (1, 1, 1, 2), "embed_dims": (32, 32, 64, 64)},
}


class Plain(nn.Module):
    """A timm model as the image encoder of a model without text."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


class ReadsFeatures(nn.Module):
    """A timm model in the place of open_clip's adapter, giving what its classifier reads."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Identity()
        if "distilled" in type(trunk).__name__.lower():
            # Two tokens side by side; their mean, where only that is given, for both.
            trunk.forward_head = lambda x: torch.cat([x[:, 0], x[:, min(1, x.shape[1] - 1)]], 1)
        elif hasattr(trunk.head, "fc"):
            trunk.reset_classifier(0)
        else:
            trunk.head = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.trunk(pixels)  # type: ignore[no-any-return]


@cache
def plain_model(name: str) -> Plain:
    """Return one of :data:`MODELS` in float64; never change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **MODELS[name])
    disturb(model)
    return Plain(model.requires_grad_(False).double().eval())
