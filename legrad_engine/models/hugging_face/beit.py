"""``BeitForImageClassification``, converted to timm's Beit."""

from functools import partial
from typing import Any

from timm.data import IMAGENET_INCEPTION_MEAN
from timm.layers import LayerNorm
from timm.models.beit import Beit
from torch import nn

from legrad_engine.models.hugging_face import vit
from legrad_engine.models.hugging_face.conversion import (
    Rules,
    activation,
    drop,
    fuse,
    mlp_ratio,
    own_size,
    rename,
    sides,
)
from legrad_engine.models.hugging_face.registry import ModelClass, Size, Weights, register
from legrad_engine.models.image_model import require_rgb

_TABLE = "relative_position_bias_table"
_RULES: Rules = (
    (rf"\.attention\.attention\.relative_position_bias\.{_TABLE}$", rf".attn.{_TABLE}"),
    *vit.BLOCK_RULES,
    (rf"(blocks\.\d+\.)relative_position_bias\.{_TABLE}$", rf"\1attn.{_TABLE}"),
    (
        rf"^(encoder\.relative_position_bias|shared_position_bias)\.{_TABLE}$",
        f"rel_pos_bias.{_TABLE}",
    ),
    (r"\.lambda_(1|2)$", r".gamma_\1"),
    (r"\.attn\.(q|v)_proj\.bias$", r".attn.\1_bias"),
    (r"^pooler\.layernorm\.", "fc_norm."),
)
_UNUSED = r"^embeddings\.mask_token$|relative_position_index$"


def _build(config: Any, size: Size) -> nn.Module:
    require_rgb(config.num_channels)
    model: Any = Beit(
        img_size=size,
        patch_size=sides(config.patch_size),
        num_classes=config.num_labels,
        global_pool="avg" if config.use_mean_pooling else "token",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=mlp_ratio(config.intermediate_size, config.hidden_size),
        norm_layer=partial(LayerNorm, eps=config.layer_norm_eps),
        init_values=config.layer_scale_init_value if config.layer_scale_init_value > 0 else None,
        use_abs_pos_emb=config.use_absolute_position_embeddings,
        use_rel_pos_bias=config.use_relative_position_bias,
        use_shared_rel_pos_bias=config.use_shared_relative_position_bias,
    )
    for block in model.blocks:
        block.mlp.act = activation(config.hidden_act)()
    return model  # type: ignore[no-any-return]


def _convert(weights: Weights, config: Any) -> Weights:
    del config
    renamed = rename(weights, _RULES)
    drop(renamed, _UNUSED)
    fuse(renamed, [f"attn.{part}_proj.weight" for part in "qkv"], "attn.qkv.weight")
    return renamed


register(
    ModelClass(
        names=("BeitForImageClassification",),
        build=_build,
        convert=_convert,
        own_size=own_size,
        usual_mean=IMAGENET_INCEPTION_MEAN,
        usual_std=IMAGENET_INCEPTION_MEAN,
    )
)
