"""One file per architecture family; :func:`find_tower` picks the one that fits a model."""

from collections.abc import Mapping
from typing import Any

from open_clip.transformer import VisionTransformer
from torch import nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.base import SCORES, Score, Tower
from legrad_engine.families.openclip_vit import OpenClipVisionTower

__all__ = ["SCORES", "Score", "Tower", "find_tower", "refusal"]


def find_tower(model: nn.Module) -> Tower:
    """The tower that explains an open_clip model's image encoder.

    Raises:
        UnsupportedModelError: no family knows this architecture.
    """
    visual = getattr(model, "visual", None)
    if isinstance(visual, VisionTransformer):
        return OpenClipVisionTower(visual)
    raise UnsupportedModelError(
        f"{type(visual).__name__} is not an image tower that LeGrad can explain here; supported "
        "are open_clip's own VisionTransformer models with class-token or average pooling, such "
        "as ViT-B-16."
    )


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why the model of an open_clip config cannot be explained, or None where it can."""
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        return f"its image tower is timm's {vision['timm_model_name']}: not supported yet"
    if isinstance(vision.get("layers"), (list, tuple)):
        return "its image tower is a ResNet, which has no attention over a patch grid"
    if vision.get("attentional_pool"):
        return "it pools its tokens with an attentional pooler: not supported yet"
    return None
