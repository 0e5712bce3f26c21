"""DINOv2, with and without registers, and its classifiers."""

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SwiGLUPacked
from torch import nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.any_size_vit import (
    AnySizeVisionTransformer,
    ClassAndPatchesVisionTransformer,
)
from legrad_engine.models.hugging_face import vit
from legrad_engine.models.hugging_face.conversion import (
    Rules,
    drop,
    fuse,
    mlp_ratio,
    own_size,
    rename,
    sides,
)
from legrad_engine.models.hugging_face.registry import ModelClass, Size, Weights, register

_RULES: Rules = (
    *vit.BLOCK_RULES,
    (r"\.layer_scale(1|2)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
    (r"^embeddings\.register_tokens$", "reg_token"),
)


def _build(config: Any, size: Size, *, is_classifier: bool) -> nn.Module:
    position_size = sides(config.image_size)
    if position_size[0] != position_size[1]:
        raise UnsupportedModelError(
            f"The positions of this model are for inputs of {position_size[0]} x "
            f"{position_size[1]} pixels; transformers resamples square grids alone.",
            field="model",
        )
    hidden = int(config.hidden_size * config.mlp_ratio)
    if config.use_swiglu_ffn:
        gated = (int(hidden * 2 / 3) + 7) // 8 * 8
        mlp: dict[str, Any] = {
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
            "mlp_ratio": mlp_ratio(2 * gated, config.hidden_size),
        }
    else:
        mlp = {"mlp_ratio": mlp_ratio(hidden, config.hidden_size)}
    registers = getattr(config, "num_register_tokens", 0)
    settings = vit.settings_of(config, position_size) | mlp
    kind: Any = ClassAndPatchesVisionTransformer if is_classifier else AnySizeVisionTransformer
    model: nn.Module = kind(
        **settings | {"num_classes": config.num_labels if is_classifier else 0},
        init_values=1.0,
        reg_tokens=registers,
        input_size=size,
        mode="bicubic",
        # In transformers the two classes differ in this.
        antialias=registers > 0 or config.model_type == "dinov2_with_registers",
    )
    return model


def _convert(weights: Weights, config: Any) -> Weights:
    del config
    renamed = rename(weights, _RULES)
    drop(renamed, vit.UNUSED)
    vit.fuse_attention(renamed)
    for kind in ("weight", "bias"):
        fuse(renamed, [f"mlp.gate_proj.{kind}", f"mlp.up_proj.{kind}"], f"mlp.fc1.{kind}")
    positions = renamed.get("pos_embed")
    if positions is not None and "cls_token" in renamed:
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


for family in ("Dinov2", "Dinov2WithRegisters"):
    for kind, is_classifier in (("Model", False), ("ForImageClassification", True)):
        register(
            ModelClass(
                names=(f"{family}{kind}",),
                build=partial(_build, is_classifier=is_classifier),
                convert=_convert,
                own_size=own_size,
                usual_mean=IMAGENET_DEFAULT_MEAN,
                usual_std=IMAGENET_DEFAULT_STD,
                takes_any_size=True,
            )
        )
