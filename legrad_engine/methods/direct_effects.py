"""Direct effects: the served cosine as a sum over blocks, heads and keys of one forward pass.

Source: Gandelsman et al. (ICLR 2024, arXiv 2310.05916). The tokens that the head reads are a sum:
the input of the first block, and what every attention and every MLP adds. The rest of the model is
affine once its norms' statistics are held at this image's, so the cosine with a target is a sum
over the same terms. With r the target carried back through the head, over the embedding's length,
and W the block's way from merged heads to its output, block l, head h and key j contribute

    sum_i w_i A[h, i, j]  (V[h, j] . (W^T r)_h)

where the rows i are the tokens that the head reads, and w_i their weight in its average.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.affine import AffineChain
from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import RowsHead, TokenHead, at_least_float32, standardize

# Attention matrices of few heads at a time, where the head reads many tokens.
_CHUNK_ELEMENTS = 8_000_000


@dataclass(frozen=True, slots=True)
class DirectEffects:
    """What one block adds to the pooled tokens, for B images; all at least float32 but the values.

    Attributes:
        weights: ``[B, heads, N]``, the weighted sum over the rows that the head reads of their
            attention, with the gain of the norms behind the attention.
        values: ``[B, heads, N, head_dim]``.
        constant: ``[B, d]``, the part of the attention's output that comes from biases.
        mlp: ``[B, d]``.
        entering: ``[B, d]``, the pooled input of the block.
        pooled: ``[B, d]``, what the last layers of the head read, after the last block.
    """

    weights: Tensor
    values: Tensor
    constant: Tensor
    mlp: Tensor
    entering: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class Directions:
    """Targets carried back to the pooled tokens.

    Attributes:
        vectors: ``[B, P, d]``; their product with a summand of the pooled tokens is its direct
            effect.
        constants: ``[B, P]``, the effect of the head's own biases.
    """

    vectors: Tensor
    constants: Tensor


def additive_refusal(tower: Tower) -> str | None:
    """Give the reason why a tower's cosine is no such sum, as a clause; None if it is."""
    if tower.width is None:
        return "its blocks attend within windows or stages (LeGrad explains it)"
    head = tower.served_head()
    if head.own_attention is not None:
        return (
            "its attentional pooler reads the tokens through an attention and an MLP, so their "
            "cosine is not a sum over blocks (nearest: maskclip and gem)"
        )
    if not isinstance(head, TokenHead) or isinstance(head, RowsHead) or _tail(head) is None:
        return (
            "its head is more than an average, layer norms and linear layers, so the cosine is not "
            "a sum over blocks (nearest: maskclip and gem)"
        )
    if any(tower.attention_branch(index) is None for index in range(tower.depth)):
        return (
            "its blocks do not add the attention's output to their input by themselves (nearest: "
            "maskclip)"
        )
    return None


def trace_direct_effects(
    tower: Tower,
    tokens: Tensor,
    layers: tuple[int, ...],
    visit: Callable[[Tensor], None] = lambda _: None,
) -> tuple[tuple[DirectEffects, ...], Tensor]:
    """Run one forward pass, or two where a norm comes before the average of the tokens.

    Args:
        tower: a tower that :func:`additive_refusal` does not refuse.
        tokens: the input of the first block.
        layers: indices of the blocks to keep, ascending.
        visit: is called with the output of every block, in order.

    Returns:
        One entry for each kept block, and the model's own features ``[B, e]``.
    """
    head = _served_head(tower)
    gains = None if head.token_norm is None else _gains_of_norm(tower, tokens, head)
    kept: list[partial[DirectEffects]] = []
    for index in range(tower.depth):
        if index in layers:
            effects, tokens = _trace_block(tower, tokens, index, head, gains)
            kept.append(effects)
        else:
            tokens = tower.forward_block(tokens, index)
        visit(tokens)
    state = at_least_float32(head.state(tokens))
    normalized = state if head.token_norm is None else head.token_norm(state)
    pooled = normalized.mean(1)
    return tuple(effects(pooled=pooled) for effects in kept), head.features(state)


def passes_ahead(tower: Tower) -> int:
    """Return the number of forward passes before the one that is traced: 0 or 1."""
    return int(_served_head(tower).token_norm is not None)


def reads_one_token(tower: Tower) -> bool:
    """Tell whether the head reads one token, such as the class token."""
    rows = _served_head(tower).rows
    return rows.stop is not None and rows.stop - (rows.start or 0) == 1


def directions_of(tower: Tower, pooled: Tensor, targets: Tensor) -> Directions:
    """Carry targets back to the pooled tokens.

    Args:
        tower: the tower.
        pooled: ``[B, d]``, :attr:`DirectEffects.pooled`.
        targets: ``[B, P, e]`` unit vectors.
    """
    head = _served_head(tower)
    tail = _tail(head)
    if tail is None:
        raise InvalidOptionError("The trace was made by another model.", field="trace")
    frozen = tail.freeze(pooled)
    # The length of the features, as the cosine divides by it.
    unit = at_least_float32(targets) / frozen.output.norm(dim=-1).clamp_min(1e-12)[:, None, None]
    constants = (unit @ frozen.constant.unsqueeze(-1)).squeeze(-1)
    vectors = tail.carry_back(unit) * frozen.gain.unsqueeze(1)
    norm = head.token_norm
    if norm is not None:
        # Each row's deviation is in the weights of the rows already.
        if norm.bias is not None:
            constants = constants + vectors @ at_least_float32(norm.bias)
        vectors = vectors * at_least_float32(norm.weight)
        vectors = vectors - vectors.mean(-1, keepdim=True)
    return Directions(vectors, constants)


def effects_of_keys(
    tower: Tower, effects: DirectEffects, index: int, directions: Directions
) -> Tensor:
    """Compute the direct effect of every head and key ``[B, P, heads, N]`` of one block."""
    along = _along_heads(tower, effects, index, directions)
    products = torch.einsum("bphc,bhnc->bphn", along, at_least_float32(effects.values))
    return products * effects.weights.unsqueeze(1)


def sum_over_heads(
    tower: Tower, effects: DirectEffects, index: int, directions: Directions
) -> Tensor:
    """Compute the direct effect of every key ``[B, P, N]`` of one block, all heads together."""
    along = _along_heads(tower, effects, index, directions).flatten(2)
    weighted = at_least_float32(effects.values) * effects.weights.unsqueeze(-1)
    return along @ weighted.transpose(2, 3).flatten(1, 2)


def _along_heads(
    tower: Tower, effects: DirectEffects, index: int, directions: Directions
) -> Tensor:
    """Carry directions back to the heads of one block: ``[B, P, heads, head_dim]``."""
    branch = tower.attention_branch(index)
    if branch is None:
        raise InvalidOptionError("The trace was made by another model.", field="trace")
    heads = effects.values.shape[1]
    carried = branch.after.carry_back(directions.vectors)
    return carried.view(*carried.shape[:-1], heads, -1)


def _trace_block(
    tower: Tower, tokens: Tensor, index: int, head: TokenHead, gains: Tensor | None
) -> tuple[partial[DirectEffects], Tensor]:
    branch = tower.attention_branch(index)
    if branch is None:
        raise InvalidOptionError("This model's cosine is not a sum.", field="method")
    attention, output = tower.run_block(tokens, index)
    read = attention.of_queries(head.rows)
    frozen = branch.after.freeze(read.output.transpose(1, 2).flatten(2))
    entering = at_least_float32(tokens[:, head.rows])
    mlp = at_least_float32(output[:, head.rows]) - entering - frozen.output
    row_weights = _row_weights(entering, gains)
    effects = partial(
        DirectEffects,
        weights=_weighted_rows(read, row_weights * frozen.gain),
        values=attention.values.contiguous(),
        constant=(row_weights * frozen.constant).sum(1),
        mlp=(row_weights * mlp).sum(1),
        entering=(row_weights * entering).sum(1),
    )
    return effects, output


def _row_weights(rows: Tensor, gains: Tensor | None) -> Tensor:
    """Return the weight ``[B, R, 1]`` of every row in the head's average."""
    ones = rows.new_ones(*rows.shape[:2], 1) if gains is None else gains
    return ones / rows.shape[1]


def _gains_of_norm(tower: Tower, tokens: Tensor, head: TokenHead) -> Tensor:
    """Run the blocks; return the inverse deviation ``[B, R, 1]`` of every row that is pooled."""
    for index in range(tower.depth):
        tokens = tower.forward_block(tokens, index)
    epsilon = 0.0 if head.token_norm is None else head.token_norm.eps
    return standardize(at_least_float32(head.state(tokens)), epsilon)[1]


def _weighted_rows(attention: Attention, row_weights: Tensor) -> Tensor:
    """Sum the rows ``[B, heads, N]`` of the attention, each with a weight ``[B, R, 1]``."""
    batch, heads, rows, _ = attention.queries.shape
    step = max(1, _CHUNK_ELEMENTS // (batch * rows * attention.keys.shape[2]))
    row = row_weights.transpose(1, 2).unsqueeze(1)
    sums = [
        row @ _of_heads(attention, slice(start, start + step)).weights()
        for start in range(0, heads, step)
    ]
    return torch.cat(sums, 1).squeeze(2)


def _of_heads(attention: Attention, heads: slice) -> Attention:
    mask = attention.mask
    if mask is not None and mask.ndim > 2 and mask.shape[-3] > 1:
        mask = mask[..., heads, :, :]
    return Attention(
        attention.values[:, heads],
        attention.output[:, heads],
        attention.queries[:, heads],
        attention.keys[:, heads],
        attention.scale,
        mask,
    )


def _served_head(tower: Tower) -> TokenHead:
    head = tower.served_head()
    if not isinstance(head, TokenHead):
        raise InvalidOptionError("The trace was made by another model.", field="trace")
    return head


def _tail(head: TokenHead) -> AffineChain | None:
    return AffineChain.of(head.tail)
