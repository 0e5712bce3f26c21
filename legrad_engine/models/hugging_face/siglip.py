"""SigLIP and SigLIP 2, converted to timm's VisionTransformer and open_clip's TextTransformer."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerNorm as TextLayerNorm
from open_clip.transformer import TextTransformer
from timm.data import IMAGENET_INCEPTION_MEAN
from timm.layers import LayerNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.any_size_vit import AnySizeVisionTransformer
from legrad_engine.models.hugging_face import clip
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

_VISION_RULES: Rules = (
    (r"^vision_model\.encoder\.layers\.(\d+)\.", r"visual.blocks.\1."),
    (r"^(visual\.blocks\.\d+\.)layer_norm", r"\1norm"),
    (r"^(visual\.blocks\.\d+\.)self_attn\.out_proj\.", r"\1attn.proj."),
    (r"^(visual\.blocks\.\d+\.)self_attn\.", r"\1own."),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.patch_embed.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.pos_embed"),
    (r"^vision_model\.post_layernorm\.", "visual.norm."),
    (r"^vision_model\.head\.probe$", "visual.attn_pool.latent"),
    (r"^vision_model\.head\.layernorm\.", "visual.attn_pool.norm."),
    (r"^vision_model\.head\.mlp\.", "visual.attn_pool.mlp."),
    (r"^vision_model\.head\.attention\.out_proj\.", "visual.attn_pool.proj."),
)
_TEXT_RULES: Rules = (
    (r"^text_model\.", "text."),
    *clip.BLOCK_RULES,
    (r"^text\.embeddings\.token_embedding\.", "text.token_embedding."),
    (r"^text\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
    (r"^text\.final_layer_norm\.", "text.ln_final."),
    (r"^text\.head\.", "text.text_projection."),
)


class TwoTowers(nn.Module):
    """Image and text tower with open_clip's interface."""

    def __init__(self, visual: nn.Module, text: nn.Module) -> None:
        """Join two towers whose features have the same length."""
        super().__init__()
        self.visual = visual
        self.text = text
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = nn.Parameter(torch.zeros(()))

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Encode pictures ``[B, 3, H, W]`` as features ``[B, e]``."""
        features: Tensor = self.visual(pixels)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Encode token ids ``[T, context]`` as features ``[T, e]``."""
        features: Tensor = self.text(text)
        return F.normalize(features, dim=-1) if normalize else features


def _vision_settings(vision: Any) -> dict[str, Any]:
    require_rgb(vision.num_channels)
    # Configs of transformers 4 have the setting only where it is stated.
    if not getattr(vision, "vision_use_head", True):
        raise UnsupportedModelError(
            "This model has no attentional pooler (vision_use_head is false), so its image half "
            "has no embedding.",
            field="model",
        )
    return {
        "patch_size": sides(vision.patch_size),
        "num_classes": 0,
        "global_pool": "map",
        "class_token": False,  # nosec B105 # no password
        "embed_dim": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "num_heads": vision.num_attention_heads,
        "mlp_ratio": mlp_ratio(vision.intermediate_size, vision.hidden_size),
        "norm_layer": partial(LayerNorm, eps=vision.layer_norm_eps),
        "act_layer": activation(vision.hidden_act),
    }


def _text_tower(config: Any) -> nn.Module:
    text = config.text_config
    if text.projection_size != config.vision_config.hidden_size:
        raise UnsupportedModelError(
            f"The text features of this model have {text.projection_size} numbers and its image "
            f"features {config.vision_config.hidden_size}: they cannot be compared.",
            field="model",
        )
    tower: nn.Module = TextTransformer(
        context_length=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        layers=text.num_hidden_layers,
        mlp_ratio=mlp_ratio(text.intermediate_size, text.hidden_size),
        output_dim=text.projection_size,
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
        act_layer=activation(text.hidden_act),
        norm_layer=partial(TextLayerNorm, eps=text.layer_norm_eps),
    )
    return tower


def _build(config: Any, size: Size) -> nn.Module:
    visual = VisionTransformer(img_size=size, **_vision_settings(config.vision_config))
    return TwoTowers(visual, _text_tower(config))


def _position_size(config: Any) -> Size:
    vision = config.vision_config
    height, width = sides(vision.patch_size)
    side = math.isqrt(vision.num_patches)
    return side * height, side * width


def _build_any_size(config: Any, size: Size) -> nn.Module:
    vision = config.vision_config
    visual = AnySizeVisionTransformer(
        img_size=_position_size(config),
        input_size=size,
        mode="bilinear",
        antialias=True,
        **_vision_settings(vision),
    )
    return TwoTowers(visual, _text_tower(config))


def _convert(weights: Weights, config: Any) -> Weights:
    renamed = rename(weights, (*_VISION_RULES, *_TEXT_RULES))
    drop(renamed, r"position_ids$")
    for kind in ("weight", "bias"):
        fuse(renamed, [f".own.{part}_proj.{kind}" for part in "qkv"], f".attn.qkv.{kind}")
        joined = renamed.pop(f"vision_model.head.attention.in_proj_{kind}", None)
        if joined is not None:
            width = len(joined) // 3
            renamed[f"visual.attn_pool.q.{kind}"] = joined[:width]
            renamed[f"visual.attn_pool.kv.{kind}"] = joined[width:]
    clip.fuse_attention(renamed)
    if "visual.pos_embed" in renamed:
        renamed["visual.pos_embed"] = renamed["visual.pos_embed"].unsqueeze(0)
    for name in ("logit_scale", "logit_bias"):
        if name in renamed and renamed[name].numel() == 1:
            renamed[name] = renamed[name].reshape(())
    patches = renamed.get("visual.patch_embed.proj.weight")
    if patches is not None and patches.ndim == 2:
        # Siglip2Model embeds flat patches of rows, columns and channels, in this order.
        height, width = sides(config.vision_config.patch_size)
        flat = patches.reshape(len(patches), height, width, -1)
        renamed["visual.patch_embed.proj.weight"] = flat.permute(0, 3, 1, 2)
    return renamed


register(
    ModelClass(
        names=("SiglipModel",),
        build=_build,
        convert=_convert,
        own_size=own_size,
        usual_mean=IMAGENET_INCEPTION_MEAN,
        usual_std=IMAGENET_INCEPTION_MEAN,
        has_text=True,
    )
)
register(
    ModelClass(
        names=("Siglip2Model",),
        build=_build_any_size,
        convert=_convert,
        own_size=_position_size,
        usual_mean=IMAGENET_INCEPTION_MEAN,
        usual_std=IMAGENET_INCEPTION_MEAN,
        takes_any_size=True,
        has_text=True,
    )
)
