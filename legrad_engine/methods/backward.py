"""The way of a score's gradient back through one block, apart from the block's attention.

The gradient of a token's row passes the block's MLP and residuals, by a closed form where the block
is known and else by autograd. It does not enter the attention: it stops at the attention's output,
where it is wanted, and at the block's input, which it reaches through the residual alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from legrad_engine.families.base import KnownBlock, Tower
from legrad_engine.families.heads import at_least_float32, layer_norm_backward, standardize
from legrad_engine.legrad.closed_form import activation_derivative


@dataclass(frozen=True, slots=True)
class RowGradients:
    """Gradients of a score for R token rows of one block, at least float32.

    Attributes:
        at_input: with respect to the block's input, ``[B, P, R, d]``; the attention's share of it
            is left out.
        at_output: with respect to the attention's output, ``[B, P, heads, R, head_dim]``.
    """

    at_input: Tensor
    at_output: Tensor


def walk_back(
    tower: Tower, index: int, tokens: Tensor, output: Tensor, gradient: Tensor
) -> RowGradients:
    """Compute the gradients before a block of those behind it.

    Args:
        tower: the tower.
        index: index of the block.
        tokens: rows of the block's input, ``[B, R, d]``.
        output: their attention's output, ``[B, heads, R, head_dim]``.
        gradient: with respect to these rows of the block's output, ``[B, P, R, d]``, or
            ``[B, P, 1, d]`` where it is the same for all of them; at least float32.
    """
    # A unit gradient keeps half precision in range.
    size = gradient.flatten(2).norm(dim=-1).clamp_min(1e-30)[..., None, None]
    known = tower.known_block(index)
    unit = gradient / size
    if known is None:
        gradients = _by_autograd(tower, index, tokens, output, unit)
    else:
        gradients = _in_closed_form(known, tokens, output, unit)
    return RowGradients(
        at_least_float32(gradients.at_input) * size,
        at_least_float32(gradients.at_output) * size.unsqueeze(-1),
    )


def _in_closed_form(
    block: KnownBlock, tokens: Tensor, output: Tensor, gradient: Tensor
) -> RowGradients:
    dtype = tokens.dtype
    heads, width = output.shape[1], output.shape[3]
    merged = block.output_projection(output.transpose(1, 2).flatten(2))
    if block.attention_scale is not None:
        merged = merged * block.attention_scale
    attended = tokens + merged
    normalized, inverse_std = standardize(attended, block.norm.eps)
    hidden = block.expand(block.norm(attended))

    scaled = gradient if block.mlp_scale is None else gradient * block.mlp_scale
    at_hidden = scaled.to(dtype) @ block.contract.weight
    at_hidden = at_hidden * activation_derivative(block.activation, hidden).unsqueeze(1)
    at_norm = at_least_float32(at_hidden @ block.expand.weight) * block.norm.weight
    through_norm = layer_norm_backward(
        at_norm,
        at_least_float32(normalized).unsqueeze(1),
        at_least_float32(inverse_std).unsqueeze(1),
    )
    at_attended = gradient + through_norm
    scaled = at_attended
    if block.attention_scale is not None:
        scaled = scaled * block.attention_scale
    at_output = scaled.to(dtype) @ block.output_projection.weight
    per_head = at_output.view(*at_output.shape[:-1], heads, width)
    return RowGradients(at_attended, per_head.transpose(2, 3))


def _by_autograd(
    tower: Tower, index: int, tokens: Tensor, output: Tensor, gradient: Tensor
) -> RowGradients:
    with torch.enable_grad():
        leaves = tokens.detach().requires_grad_(), output.detach().requires_grad_()
        finished = tower.finish_block(*leaves, index)
    found = [
        torch.autograd.grad(finished, leaves, each.expand_as(finished), retain_graph=True)
        for each in gradient.to(finished.dtype).unbind(1)
    ]
    at_input, at_output = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
    return RowGradients(at_input, at_output)
