"""LeGrad by its definition, slow and explicit: attention matrices as tensors, all by autograd.

An independent check: it reads an open_clip VisionTransformer's modules by itself and shares no code
with the engine.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from open_clip.transformer import CustomResidualAttentionBlock
from torch import Tensor, nn


def explicit_maps(
    visual: nn.Module,
    pixels: Tensor,
    targets: Tensor,
    layers: Sequence[int],
    score: Literal["mean", "cls"] = "mean",
    part: Callable[[Tensor], Tensor] = F.relu,
) -> Tensor:
    """Return the summed LeGrad maps ``[P, rows, columns]`` of one image, in float64.

    Args:
        visual: an open_clip VisionTransformer in float64.
        pixels: ``[3, H, W]``.
        targets: ``[P, e]`` unit vectors.
        layers: block indices, ascending.
        score: the pooling of the explained score.
        part: the part of the gradient that counts.
    """
    tower: Any = visual
    with torch.enable_grad():
        # The weights may not require a gradient, so the pixels must: else there is no graph.
        image = pixels.double().unsqueeze(0).requires_grad_()
        patches = tower.conv1(image)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([tower.class_embedding.reshape(1, 1, -1), tokens], dim=1)
        tokens = tower.ln_pre(tokens + positions(tower, (rows, columns)))
        total = torch.zeros(len(targets), rows * columns, dtype=torch.float64)
        for index, block in enumerate(tower.transformer.resblocks):
            tokens, weights = _block(block, tokens)
            if index not in layers:
                continue
            scores = targets.double() @ F.normalize(_pool(tower, tokens, score), dim=-1)[0]
            for position, value in enumerate(scores):
                (gradient,) = torch.autograd.grad(value, weights, retain_graph=True)
                # [1, heads, queries, keys]: over heads and queries, without the class token's key.
                total[position] += part(gradient).mean(dim=(0, 1, 2))[1:]
    return total.view(len(targets), rows, columns)


def positions(tower: Any, grid: tuple[int, int]) -> Tensor:
    """Return the positional embedding for a grid, resampled as by open_clip's own loader."""
    positions = tower.positional_embedding
    if grid == tuple(tower.grid_size):
        return positions  # type: ignore[no-any-return]
    image = positions[1:].T.reshape(1, -1, *tower.grid_size)
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:1], image.flatten(2)[0].T])


def _block(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return a block's output and its attention weights ``[1, heads, N, N]``."""
    attention = block.attn
    custom = isinstance(block, CustomResidualAttentionBlock)
    heads = attention.num_heads
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.reshape(*part.shape[:-1], heads, -1).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    )
    if custom:
        query, key = attention.ln_q(query), attention.ln_k(key)
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    output = weights @ value
    if custom and attention.head_scale is not None:
        output = output * attention.head_scale
    merged = output.transpose(1, 2).flatten(2)
    if custom:
        merged = block.ln_attn(attention.out_proj(attention.ln_inner(merged)))
    else:
        merged = attention.out_proj(merged)
    tokens = tokens + block.ls_1(merged)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens))), weights


def _pool(tower: Any, tokens: Tensor, score: str) -> Tensor:
    if tower.pool_type == "avg":
        if tower.final_ln_after_pool:
            pooled = tower.ln_post(tokens[:, 1:].mean(1))
        else:
            pooled = tower.ln_post(tokens)[:, 1:].mean(1)
    elif score == "cls":
        pooled = tower.ln_post(tokens[:, 0])
    else:
        pooled = tower.ln_post(tokens.mean(1))
    return pooled @ tower.proj  # type: ignore[no-any-return]
