"""One file per architecture family; :func:`find_tower` picks the one that fits a model."""

from collections.abc import Mapping
from typing import Any

from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import is_model, model_entrypoint
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import SCORES, Score
from legrad_engine.families.openclip_vit import OpenClipVisionTower
from legrad_engine.families.timm_hierarchical import FastVitTower, SwinTower
from legrad_engine.families.timm_vit import TimmVisionTower

__all__ = ["SCORES", "Score", "Tower", "find_tower", "refusal", "timm_refusal"]

_TIMM_MODULES = (
    "deit",
    "eva",
    "fastvit",
    "swin_transformer",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vitamin",
)
_CONVOLUTIONAL = {
    "convnext": "ConvNeXt",
    "resnet": "ResNet",
}


def find_tower(model: nn.Module) -> Tower:
    """The tower that explains a model's image encoder, ``model.visual``.

    Raises:
        UnsupportedModelError: no family knows this architecture, with the reason.
    """
    visual = getattr(model, "visual", None)
    if isinstance(visual, VisionTransformer):
        return OpenClipVisionTower(visual)
    if isinstance(visual, TimmModel):
        if "pool" in dict(visual.head.named_children()):
            raise UnsupportedModelError(
                "This model's image tower is pooled by a two-dimensional attention pool behind a "
                "timm trunk: not supported."
            )
        return _timm_tower(visual.trunk, visual.head, tuple(visual.image_size))
    if visual is not None and hasattr(visual, "pretrained_cfg"):
        size = visual.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
        return _timm_tower(visual, None, tuple(size))
    raise UnsupportedModelError(
        f"{type(visual).__name__} is not an image tower that LeGrad can explain: it has no "
        "attention over a patch grid, or one that is not known here. `legrad models --all` lists "
        "what is supported."
    )


def _timm_tower(trunk: nn.Module, adapter: nn.Module | None, image_size: tuple[int, int]) -> Tower:
    if isinstance(trunk, (TimmVisionTransformer, VisionTransformerRelPos, Eva)):
        return TimmVisionTower(trunk, adapter)
    if isinstance(trunk, SwinTransformer):
        return SwinTower(trunk, adapter)
    if isinstance(trunk, FastVit):
        return FastVitTower(trunk, adapter, image_size=image_size)
    raise UnsupportedModelError(_timm_refusal(type(trunk).__name__, type(trunk).__module__))


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why the model of an open_clip config cannot be explained, or None where it can."""
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        return timm_refusal(vision["timm_model_name"])
    if isinstance(vision.get("layers"), (list, tuple)):
        return (
            "its image tower is a ResNet: its patches do not attend to each other, only its last "
            "pooling layer is an attention"
        )
    return None


def timm_refusal(name: str) -> str | None:
    """Why a timm architecture cannot be explained, or None where it can, or is not known yet."""
    # It may be on a hub; and what does not exist is for the loader to say.
    if not isinstance(name, str) or not is_model(name):
        return None
    module = model_entrypoint(name).__module__
    if module.rpartition(".")[2] in _TIMM_MODULES:
        return None
    return _timm_refusal(name, module)


def _timm_refusal(name: str, module: str) -> str:
    for part, known in _CONVOLUTIONAL.items():
        if part in module:
            return f"its image tower is timm's {name}, a {known}: it has no attention"
    return f"its image tower is timm's {name}, an architecture that is not supported yet"
