"""Blocks of open_clip's transformers, whose image and text towers are made of the same ones."""

from typing import Any, TypeAlias

import torch.nn.functional as F
from open_clip.transformer import (
    CustomResidualAttentionBlock,
    LayerScale,
    QuickGELU,
    ResidualAttentionBlock,
)
from torch import Tensor, nn

from legrad_engine.families.attention import Attention
from legrad_engine.families.base import KnownBlock

_ELEMENTWISE_ACTIVATIONS = (nn.GELU, nn.ReLU, nn.SiLU, QuickGELU)

# ResidualAttentionBlock or CustomResidualAttentionBlock; open_clip has no types.
OpenClipBlock: TypeAlias = Any


def has_scaled_cosine_attention(block: OpenClipBlock) -> bool:
    """Tell whether a block's attention compares unit vectors, which open_clip itself cannot run."""
    return getattr(block.attn, "logit_scale", None) is not None


def attend(block: OpenClipBlock, normalized: Tensor, mask: Tensor | None = None) -> Attention:
    """Compute a block's attention.

    Args:
        block: the block; its attention is no scaled cosine.
        normalized: ``[B, N, d]``, the output of its first norm.
        mask: see :attr:`Attention.mask`.
    """
    attention = block.attn
    batch, count, width = normalized.shape
    projected = F.linear(normalized, attention.in_proj_weight, attention.in_proj_bias).view(
        batch, count, 3, attention.num_heads, width // attention.num_heads
    )
    query, key, value = projected.permute(2, 0, 3, 1, 4)
    if isinstance(block, CustomResidualAttentionBlock):
        query, key = attention.ln_q(query), attention.ln_k(key)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return Attention(value, output, query, key, query.shape[-1] ** -0.5, mask)


def finish(block: OpenClipBlock, tokens: Tensor, output: Tensor) -> Tensor:
    """Run the part of a block that follows its attention. Differentiable in ``output``.

    Args:
        block: the block.
        tokens: ``[B, R, d]``, its input, or some rows of it.
        output: ``[B, heads, R, head_dim]``, the attention's output, of the same rows.
    """
    attention = block.attn
    custom = isinstance(block, CustomResidualAttentionBlock)
    if custom and attention.head_scale is not None:
        output = output * attention.head_scale
    merged = output.transpose(1, 2).flatten(2)
    if custom:
        merged = attention.ln_inner(merged)
    merged = attention.out_proj(merged)
    if custom:
        merged = block.ln_attn(merged)
    tokens = tokens + block.ls_1(merged)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))  # type: ignore[no-any-return]


def known_parts(block: OpenClipBlock) -> KnownBlock | None:
    """Return a block's parts where its derivative has a closed form, else None."""
    if not (
        isinstance(block, ResidualAttentionBlock)
        and isinstance(block.mlp.gelu, _ELEMENTWISE_ACTIVATIONS)
    ):
        return None
    return KnownBlock(
        output_projection=block.attn.out_proj,
        attention_scale=block.ls_1.gamma if isinstance(block.ls_1, LayerScale) else None,
        norm=block.ln_2,
        expand=block.mlp.c_fc,
        activation=block.mlp.gelu,
        contract=block.mlp.c_proj,
        mlp_scale=block.ls_2.gamma if isinstance(block.ls_2, LayerScale) else None,
    )
