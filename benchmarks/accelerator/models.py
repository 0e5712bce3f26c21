"""Models with seeded random weights: one of each architecture family, and those to be timed."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.seeded_models import open_clip_model
from legrad_engine import Explainer
from legrad_engine.families.any_size_vit import (
    AnySizeVisionTransformer,
    ClassAndPatchesVisionTransformer,
)
from legrad_engine.legrad.switches import Acceleration
from legrad_engine.models.image_model import ImageModel
from legrad_engine.models.preprocessing import Preprocessing

Build = Callable[[], nn.Module]

_PREPROCESSING = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, source="this benchmark")


class HeldPixels(Explainer):
    """An explainer whose input is on the device already, whatever the pictures.

    Attributes:
        pixels: ``[B, 3, height, width]``, normalised; None for the pictures' own.
    """

    pixels: Tensor | None = None

    def input_of(self, images: Any) -> Tensor:
        """Return the held input."""
        return super().input_of(images) if self.pixels is None else self.pixels


def explainer_of(model: nn.Module, name: str, accelerate: Acceleration = "off") -> HeldPixels:
    """Wrap a model without its text half."""
    return HeldPixels(model, None, name=name, preprocessing=_PREPROCESSING, accelerate=accelerate)


def _timm(name: str, **options: Any) -> Build:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return ImageModel(timm.create_model(name, **options))

    return build


def _any_size(kind: type[nn.Module], **options: Any) -> Build:
    def build() -> nn.Module:
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "img_size": (518, 518),
            "input_size": (224, 224),
            "patch_size": 14,
            "embed_dim": 192,
            "depth": 2,
            "num_heads": 3,
            "mode": "bicubic",
            "antialias": False,
            "num_classes": 0,
        }
        return ImageModel(kind(**settings | options))

    return build


# One for each registered family, small enough for a float64 forward pass on a CPU.
FAMILIES: Mapping[str, Build] = {
    "any-size-vit": _any_size(AnySizeVisionTransformer),
    "any-size-vit-class-and-patches": _any_size(
        ClassAndPatchesVisionTransformer, reg_tokens=4, num_classes=4
    ),
    "openclip-vit": lambda: open_clip_model("ViT-B-16", layers=2),
    "timm-beit": _timm("beit_base_patch16_224", depth=2),
    "timm-eva": _timm("eva02_tiny_patch14_224", depth=2),
    "timm-fastvit": _timm("fastvit_sa12"),
    "timm-swin": _timm("swin_tiny_patch4_window7_224"),
    "timm-vit": _timm("vit_base_patch16_siglip_224", depth=2),
    "timm-vit-distilled": _timm("deit_tiny_distilled_patch16_224", depth=2),
    "timm-vit-relpos": _timm("vit_relpos_small_patch16_224", depth=2),
}

TIMED: Mapping[str, Build] = {
    name: lambda name=name: open_clip_model(name)  # type: ignore[misc]
    for name in ("ViT-B-16", "ViT-L-14", "ViT-B-16-SigLIP")
}


@torch.no_grad()
def unsettle(model: nn.Module) -> None:
    """Move norms, biases and scales away from 0 and 1: fresh ones would hide a forgotten term."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.squeeze().ndim == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
