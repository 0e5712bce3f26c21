"""``ViTModel``, DeiT and their classifiers, converted to timm's VisionTransformer."""

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN
from timm.layers import LayerNorm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

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

# Names in files of every version; transformers 5 has some others in memory (`layers.0.`, `q_proj`,
# `o_proj`, `mlp.fc1`), which are in files that `torch.save` wrote.
BLOCK_RULES: Rules = (
    (r"^(beit|deit|dinov2|dinov2_with_registers|vit)\.", ""),
    (r"^(encoder\.layer|encoder\.layers|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1_proj."),
    (r"\.attn\.query\.", ".attn.q_proj."),
    (r"\.attn\.key\.", ".attn.k_proj."),
    (r"\.attn\.value\.", ".attn.v_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
# Only for training, or for outputs that are not the features.
UNUSED = r"^(embeddings\.mask_token|pooler\.)"


def settings_of(config: Any, size: Size) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer that these configs have in common."""
    require_rgb(config.num_channels)
    return {
        "img_size": size,
        "patch_size": sides(config.patch_size),
        "num_classes": 0,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "qkv_bias": config.qkv_bias,
        "norm_layer": partial(LayerNorm, eps=config.layer_norm_eps),
        "act_layer": activation(config.hidden_act),
    }


def fuse_attention(weights: Weights) -> None:
    """Join query, key and value as timm has them; in place."""
    for kind in ("weight", "bias"):
        fuse(weights, [f"attn.{part}_proj.{kind}" for part in "qkv"], f"attn.qkv.{kind}")


def _settings(config: Any, size: Size) -> dict[str, Any]:
    return settings_of(config, size) | {
        "mlp_ratio": mlp_ratio(config.intermediate_size, config.hidden_size)
    }


def _vit(config: Any, size: Size, *, is_classifier: bool) -> nn.Module:
    classes = config.num_labels if is_classifier else 0
    model: nn.Module = VisionTransformer(**_settings(config, size) | {"num_classes": classes})
    return model


def _deit(config: Any, size: Size, *, is_classifier: bool) -> nn.Module:
    # The distillation token is one more token with a position; the features are the class token's.
    classes = config.num_labels if is_classifier else 0
    settings = _settings(config, size) | {"num_classes": classes, "reg_tokens": 1}
    model: nn.Module = VisionTransformer(**settings)
    return model


def _distilled(config: Any, size: Size) -> nn.Module:
    settings = _settings(config, size) | {"num_classes": config.num_labels}
    model: nn.Module = VisionTransformerDistilled(**settings)
    return model


def _convert(weights: Weights, config: Any, *, rules: Rules = ()) -> Weights:
    del config
    renamed = rename(weights, (*BLOCK_RULES, *rules))
    drop(renamed, UNUSED)
    fuse_attention(renamed)
    return renamed


_DISTILLATION: Rules = (
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^cls_classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)

for names, is_classifier in ((("ViTModel",), False), (("ViTForImageClassification",), True)):
    register(
        ModelClass(
            names=names,
            build=partial(_vit, is_classifier=is_classifier),
            convert=_convert,
            own_size=own_size,
            usual_mean=IMAGENET_INCEPTION_MEAN,
            usual_std=IMAGENET_INCEPTION_MEAN,
        )
    )
for names, is_classifier in ((("DeiTModel",), False), (("DeiTForImageClassification",), True)):
    register(
        ModelClass(
            names=names,
            build=partial(_deit, is_classifier=is_classifier),
            convert=partial(_convert, rules=((r"^embeddings\.distillation_token$", "reg_token"),)),
            own_size=own_size,
            usual_mean=IMAGENET_DEFAULT_MEAN,
            usual_std=IMAGENET_DEFAULT_STD,
        )
    )
register(
    ModelClass(
        names=("DeiTForImageClassificationWithTeacher",),
        build=_distilled,
        convert=partial(_convert, rules=_DISTILLATION),
        own_size=own_size,
        usual_mean=IMAGENET_DEFAULT_MEAN,
        usual_std=IMAGENET_DEFAULT_STD,
    )
)
