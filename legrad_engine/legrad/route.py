"""Choice of LeGrad's form for each block: closed form, general, or through the tower's pooler."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, TokenHead
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.legrad import closed_form, general, pooler
from legrad_engine.legrad.closed_form import ClosedFormTrace, FoldedBlock
from legrad_engine.legrad.general import GeneralTrace
from legrad_engine.legrad.pooler import PoolerTrace
from legrad_engine.legrad.rectified_product import RectifiedProduct

BlockTrace = ClosedFormTrace | GeneralTrace | PoolerTrace
Route = Literal["closed form", "general", "pooler"]


def route_of(tower: Tower) -> Route:
    """Name the form in which a tower's default score is explained, for the catalogue."""
    head = tower.score_head(tower.scores[0])
    if isinstance(head, PoolerHead):
        return "pooler"
    has_closed_form = isinstance(head, TokenHead) and all(
        tower.known_block(index) is not None for index in range(tower.depth)
    )
    return "closed form" if has_closed_form else "general"


def trace_blocks(
    tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
) -> tuple[tuple[BlockTrace, ...], Tensor]:
    """Run one forward pass and keep the tensors that the backward pass needs.

    Args:
        tower: the tower at the input's size.
        tokens: the input of the first block, from :meth:`Tower.embed`.
        layers: indices of the explained blocks, ascending.
        head: the head of the explained score.

    Returns:
        One trace for each explained block, and the model's own output features ``[B, e]``, not
        normalised, at least float32.
    """
    if isinstance(head, PoolerHead):
        return _trace_pooler(tower, tokens, layers, head)
    served = tower.served_head()
    blocks: list[BlockTrace] = []
    served_state: Tensor | None = None
    for index in range(tower.depth):
        if index not in layers:
            tokens = tower.forward_block(tokens, index)
            continue
        known = tower.known_block(index)
        if known is None or not (isinstance(head, TokenHead) and isinstance(served, TokenHead)):
            attention, output = tower.run_block(tokens, index)
            values, result = (
                each.reshape(len(tokens), -1, *each.shape[1:])
                for each in (attention.values, attention.output)
            )
            blocks.append(GeneralTrace(values, tokens, result))
            tokens = output
            continue
        last = index == tower.depth - 1
        attention = tower.attend(tokens, index)
        passed = closed_form.trace_block(known, tokens, attention, head, served, last=last)
        blocks.append(passed.trace)
        served_state = passed.served_state
        if passed.tokens is not None:
            tokens = passed.tokens
    if served_state is None:
        served_state = served.state(tokens)
    return tuple(blocks), served.features(served_state)


def _trace_pooler(
    tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: PoolerHead
) -> tuple[tuple[BlockTrace, ...], Tensor]:
    blocks: list[BlockTrace] = []
    output: Tensor | None = None
    for index in range(tower.depth):
        tokens = tower.forward_block(tokens, index)
        if index in layers:
            attention = head.attend(tokens)
            blocks.append(PoolerTrace(attention.values.contiguous(), attention.output))
            output = attention.output if index == tower.depth - 1 else None
    return tuple(blocks), head.features(head.state(tokens) if output is None else output)


def attribute_block(
    tower: Tower,
    index: int,
    trace: BlockTrace,
    head: ScoreHead,
    targets: Tensor,
    folded: Callable[[int], FoldedBlock],
    product: RectifiedProduct,
) -> Tensor:
    """Compute one layer's maps over the patches.

    Args:
        tower: the tower at the input's size.
        index: index of the block.
        trace: from :func:`trace_blocks` with the same head.
        head: the head of the explained score.
        targets: ``[B, P, e]`` unit vectors.
        folded: from a block's index to its folded weights.
        product: computes the sum of ReLU(G V^T).

    Returns:
        ``[B, P, patches]``, at least float32.

    Raises:
        InvalidOptionError: the trace was made by another model.
    """
    if isinstance(trace, PoolerTrace) and isinstance(head, PoolerHead):
        return pooler.attribute_block(trace, head, targets, product)
    if isinstance(trace, ClosedFormTrace) and isinstance(head, TokenHead):
        maps = closed_form.attribute_block(folded(index), trace, head, targets, product)
        return tower.on_grid(maps, index)
    if isinstance(trace, GeneralTrace):
        maps = general.attribute_block(tower, index, trace, head, targets, product)
        return tower.on_grid(maps, index)
    raise InvalidOptionError("The trace was made by another model.", field="trace")
