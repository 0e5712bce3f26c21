"""Contributions of tokens by autograd through explicit attention matrices, in float64.

An independent check: it shares no code with the engine.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def openclip_contributions(
    text: Any, tokens: Tensor, ends: Sequence[int], layers: Sequence[int], image: Tensor
) -> Tensor:
    """Return the contributions ``[T, N]`` of tokens in an open_clip text transformer.

    Args:
        text: the transformer, or the CLIP that holds its parts, in float64.
        tokens: ``[T, context]``.
        ends: position of each text's pooled token.
        layers: the explained blocks.
        image: ``[e]``, a unit embedding.
    """
    embedded = text.token_embedding(tokens)
    mask = text.attn_mask
    if getattr(text, "cls_emb", None) is not None or getattr(text, "use_pad_mask", False):
        hidden, mask = text._embeds(tokens)
        mask = mask.view(len(tokens), -1, *mask.shape[1:])
    else:
        hidden = embedded + text.positional_embedding
    rows = torch.arange(len(tokens))
    last = torch.tensor(list(ends))
    total = torch.zeros(hidden.shape[:2], dtype=torch.float64)
    for index, block in enumerate(text.transformer.resblocks):
        weights, values = _attention(block, hidden, mask)
        weights = weights.detach().requires_grad_()
        output = _finish(block, hidden, weights @ values)
        if index in layers:
            pooled = text.ln_final(output)[rows, last]
            projection = text.text_projection
            if isinstance(projection, torch.nn.Linear):
                pooled = projection(pooled)
            elif projection is not None:
                pooled = pooled @ projection
            cosines = F.normalize(pooled, dim=-1) @ image
            (gradient,) = torch.autograd.grad(cosines.sum(), weights)
            total += (weights * gradient).sum((1, 2)).detach()
        hidden = output.detach()
    return total[:, : tokens.shape[1]]


def _attention(block: Any, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    normalized = block.ln_1(hidden)
    attention = block.attn
    count = attention.num_heads
    parts = F.linear(normalized, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    query, key, value = (part.view(*part.shape[:-1], count, -1).transpose(1, 2) for part in parts)
    if hasattr(attention, "ln_q"):
        query, key = attention.ln_q(query), attention.ln_k(key)
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        logits = logits + mask
    return logits.softmax(-1), value


def _finish(block: Any, hidden: Tensor, output: Tensor) -> Tensor:
    attention = block.attn
    if getattr(attention, "head_scale", None) is not None:
        output = output * attention.head_scale
    merged = output.transpose(1, 2).flatten(2)
    if hasattr(attention, "ln_inner"):
        merged = attention.ln_inner(merged)
    merged = attention.out_proj(merged)
    if hasattr(block, "ln_attn"):
        merged = block.ln_attn(merged)
    hidden = hidden + block.ls_1(merged)
    result: Tensor = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    return result
