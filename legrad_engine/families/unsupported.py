"""Image towers that are known and refused: convolutional networks and 2D attention pools."""

from collections.abc import Mapping
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel

from legrad_engine.families.registry import ImageEncoder, Refusal, register

# timm_pool values for which open_clip puts timm's 2D attention pools behind the trunk.
_ATTENTION_POOLS = ("abs_attn", "rot_attn")


def _has_stages(vision: Mapping[str, Any]) -> bool:
    # open_clip builds its ModifiedResNet where the config lists a number of layers per stage.
    return isinstance(vision.get("layers"), (list, tuple))


def _is_pooled_in_two_dimensions(encoder: ImageEncoder) -> bool:
    visual = encoder.visual
    return isinstance(visual, TimmModel) and "pool" in dict(visual.head.named_children())


register(
    Refusal(
        name="timm-convnext",
        reason="its image tower is timm's {name}, a ConvNeXt: it has no attention",
        nearest="timm:swin_tiny_patch4_window7_224",
        timm_modules=("convnext",),
    )
)
register(
    Refusal(
        name="timm-resnet",
        reason="its image tower is timm's {name}, a ResNet: it has no attention",
        nearest="timm:vit_small_patch16_224",
        timm_modules=("inception_resnet_v2", "resnet", "resnetv2", "tresnet"),
    )
)
register(
    Refusal(
        name="openclip-resnet",
        reason=(
            "its image tower is a ResNet: its patches do not attend to each other, only its last "
            "pooling layer is an attention"
        ),
        nearest="ViT-B-32",
        config=_has_stages,
        encoder=lambda encoder: isinstance(encoder.visual, ModifiedResNet),
    )
)
register(
    Refusal(
        name="timm-attention-pool-2d",
        reason=(
            "its image tower is pooled by a two-dimensional attention pool behind a timm trunk, "
            "which is not supported"
        ),
        nearest="ViT-B-32",
        config=lambda vision: vision.get("timm_pool") in _ATTENTION_POOLS,
        encoder=_is_pooled_in_two_dimensions,
    )
)
