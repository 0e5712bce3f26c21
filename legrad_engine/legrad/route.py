"""Which form of LeGrad each block takes: closed form, general, or through the tower's pooler."""

from collections.abc import Callable

from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, TokenHead
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.legrad import closed_form, general, pooler
from legrad_engine.legrad.closed_form import ClosedFormTrace, FoldedBlock
from legrad_engine.legrad.general import GeneralTrace
from legrad_engine.legrad.pooler import PoolerTrace

BlockTrace = ClosedFormTrace | GeneralTrace | PoolerTrace


def trace_blocks(
    tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
) -> tuple[tuple[BlockTrace, ...], Tensor]:
    """One forward pass that keeps what the walk back through the explained blocks needs.

    Args:
        tower: the tower at the input's size.
        tokens: what enters the first block, from :meth:`Tower.embed`.
        layers: the explained blocks, ascending.
        head: the explained score.

    Returns:
        One trace for each layer, and the features ``[B, e]`` that the model itself serves, not
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
) -> Tensor:
    """One layer's map over the patches, ``[B, P, patches]``, at least float32.

    Args:
        tower: the tower at the input's size.
        index: which block.
        trace: from :func:`trace_blocks` with the same head.
        head: the explained score.
        targets: ``[B, P, e]`` unit vectors.
        folded: gives a block's folded weights.

    Raises:
        InvalidOptionError: the trace was made for another model.
    """
    if isinstance(trace, PoolerTrace) and isinstance(head, PoolerHead):
        return pooler.attribute_block(trace, head, targets)
    if isinstance(trace, ClosedFormTrace) and isinstance(head, TokenHead):
        maps = closed_form.attribute_block(folded(index), trace, head, targets)
        return tower.on_grid(maps, index)
    if isinstance(trace, GeneralTrace):
        maps = general.attribute_block(tower, index, trace, head, targets)
        return tower.on_grid(maps, index)
    raise InvalidOptionError("The trace was made by another model.", field="trace")
