"""``CLIPModel``, converted to open_clip's CLIP."""

from typing import Any

import open_clip
from torch import nn

from legrad_engine.models.hugging_face.conversion import (
    Rules,
    activation,
    drop,
    fuse,
    mlp_ratio,
    own_size,
    rename,
)
from legrad_engine.models.hugging_face.registry import ModelClass, Size, Weights, register
from legrad_engine.models.image_model import require_rgb

# Configs before transformers 4.31 have this number for the end token, whatever it is.
_WRONG_END_TOKEN = 2

# Blocks of open_clip's transformers; also used for SigLIP's text half.
BLOCK_RULES: Rules = (
    (r"encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"(resblocks\.\d+\.)layer_norm1\.", r"\1ln_1."),
    (r"(resblocks\.\d+\.)layer_norm2\.", r"\1ln_2."),
    (r"(resblocks\.\d+\.)self_attn\.", r"\1attn."),
    (r"(resblocks\.\d+\.)mlp\.fc1\.", r"\1mlp.c_fc."),
    (r"(resblocks\.\d+\.)mlp\.fc2\.", r"\1mlp.c_proj."),
)
_RULES: Rules = (
    *BLOCK_RULES,
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.", "visual."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.", ""),
    (r"^text_projection\.weight$", "text_projection"),
)


def _build(config: Any, size: Size) -> nn.Module:
    vision, text = config.vision_config, config.text_config
    require_rgb(vision.num_channels)
    end = text.eos_token_id
    # Where the end token is the greatest id, its first place is that of the maximum.
    finds_maximum = end in (_WRONG_END_TOKEN, text.vocab_size - 1)
    model: Any = open_clip.CLIP(
        embed_dim=config.projection_dim,
        vision_cfg={
            "image_size": list(size),
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": mlp_ratio(vision.intermediate_size, vision.hidden_size),
            "norm_kwargs": {"eps": vision.layer_norm_eps},
        },
        text_cfg={
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": mlp_ratio(text.intermediate_size, text.hidden_size),
            "norm_kwargs": {"eps": text.layer_norm_eps},
            "pool_type": "argmax" if finds_maximum else "eos",
            "eos_id": end,
        },
    )
    # Both halves have an activation of their own; open_clip's config has one for both.
    for blocks, settings in (
        (model.visual.transformer.resblocks, vision),
        (model.transformer.resblocks, text),
    ):
        for block in blocks:
            block.mlp.gelu = activation(settings.hidden_act)()
    return model  # type: ignore[no-any-return]


def _convert(weights: Weights, config: Any) -> Weights:
    del config
    renamed = rename(weights, _RULES)
    drop(renamed, r"position_ids$")
    fuse_attention(renamed)
    for name in ("visual.proj", "text_projection"):
        if name in renamed:
            renamed[name] = renamed[name].T
    return renamed


def fuse_attention(weights: Weights) -> None:
    """Join query, key and value as ``nn.MultiheadAttention`` has them; in place."""
    for kind in ("weight", "bias"):
        parts = [f"attn.{part}_proj.{kind}" for part in "qkv"]
        fuse(weights, parts, f"attn.in_proj_{kind}")


register(
    ModelClass(
        names=("CLIPModel",),
        build=_build,
        convert=_convert,
        own_size=own_size,
        usual_mean=open_clip.OPENAI_DATASET_MEAN,
        usual_std=open_clip.OPENAI_DATASET_STD,
        has_text=True,
    )
)
