"""``DINOv3ViTModel``, converted to timm's Eva with DINOv3's rotary positions."""

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm
from timm.models.eva import Eva
from torch import nn

from legrad_engine.models.hugging_face.conversion import (
    Rules,
    activation,
    drop,
    mlp_ratio,
    own_size,
    rename,
    sides,
)
from legrad_engine.models.hugging_face.registry import ModelClass, Size, Weights, register
from legrad_engine.models.image_model import require_rgb

_RULES: Rules = (
    (r"^(model\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.layer_scale(1|2)\.lambda1$", r".gamma_\1"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
)
_GATED: Rules = (
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
_PLAIN: Rules = (
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)


def _build(config: Any, size: Size) -> nn.Module:
    require_rgb(config.num_channels)
    model: Any = Eva(
        img_size=size,
        patch_size=sides(config.patch_size),
        num_classes=0,
        global_pool="token",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        qkv_bias=config.query_bias or config.value_bias,
        qkv_fused=False,
        mlp_ratio=mlp_ratio(config.intermediate_size, config.hidden_size),
        swiglu_mlp=config.use_gated_mlp,
        # Any alignment of whole numbers makes timm use separate weights for gate and value.
        swiglu_align_to=1 if config.use_gated_mlp else 0,
        norm_layer=partial(LayerNorm, eps=config.layer_norm_eps),
        init_values=config.layerscale_value,
        num_reg_tokens=config.num_register_tokens,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=config.rope_theta,
        rope_rotate_half=True,
        use_fc_norm=False,
    )
    for block in model.blocks:
        block.mlp.act = activation(config.hidden_act)()
        if config.key_bias:
            block.attn.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
    return model  # type: ignore[no-any-return]


def _convert(weights: Weights, config: Any) -> Weights:
    renamed = rename(weights, (*_RULES, *(_GATED if config.use_gated_mlp else _PLAIN)))
    drop(renamed, r"^embeddings\.mask_token$|inv_freq$")
    if not config.num_register_tokens:
        renamed.pop("reg_token", None)
    # timm's modules have these biases even where the config leaves them out.
    without_bias = [
        *(["attn.q_proj"] if config.value_bias and not config.query_bias else []),
        *(["attn.v_proj"] if config.query_bias and not config.value_bias else []),
        *([] if config.proj_bias else ["attn.proj"]),
        *([] if config.mlp_bias else ["mlp.fc1", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"]),
    ]
    for module in without_bias:
        for name in [name for name in renamed if name.endswith(f".{module}.weight")]:
            weight = renamed[name]
            renamed[name.removesuffix("weight") + "bias"] = weight.new_zeros(len(weight))
    return renamed


register(
    ModelClass(
        names=("DINOv3ViTModel",),
        build=_build,
        convert=_convert,
        own_size=own_size,
        usual_mean=IMAGENET_DEFAULT_MEAN,
        usual_std=IMAGENET_DEFAULT_STD,
        takes_any_size=True,
    )
)
