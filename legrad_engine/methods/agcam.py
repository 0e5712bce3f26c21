"""AGCAM: positive gradients of all blocks' attention, gated by the attention's own logits."""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, at_least_float32
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.backward import walk_back
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.reading import (
    has_few_rows,
    note_on_queries,
    read_rows,
    refusal_of_windows,
)
from legrad_engine.methods.registry import register
from legrad_engine.methods.rows import TokensTrace, row_gradient, weighted_relevance


@dataclass(frozen=True, slots=True)
class StateTrace:
    """What the score's head reads of the last block.

    Attributes:
        state: see :meth:`ScoreHead.state`.
    """

    state: Tensor


@dataclass(frozen=True, slots=True)
class RowsTrace:
    """One block, for the R tokens whose queries stand for the score.

    Attributes:
        values: ``[B, heads, N, head_dim]``, the attention's values.
        gate: ``[B, heads, R, N]``, the sigmoid of the attention's logits.
        tokens: ``[B, R, d]``, the block's input.
        output: ``[B, heads, R, head_dim]``, the attention's output.
    """

    values: Tensor
    gate: Tensor
    tokens: Tensor
    output: Tensor


class Agcam(Method[StateTrace | RowsTrace | TokensTrace]):
    """``sum_l,h sigmoid(q_0 . k_j / sqrt d) ReLU(d s / d A_l[h, 0, j])``.

    The gradient is that of the authors' code, which detaches the input of every attention: it
    reaches earlier blocks through residuals and MLPs alone. So only the rows that the score reads
    have one, and it is walked back without a backward pass through the model.
    """

    name = "agcam"
    title = "AGCAM"
    description = (
        "Positive gradients of every block's attention from the class token to each patch,\n"
        "weighted by the sigmoid of the attention's logits and summed over heads and blocks.\n"
        "Gradients do not pass through attention, as in the authors' code."
    )
    source = "Leem and Seo, AAAI 2024, arXiv 2402.04563"
    default_layers = "all"
    trace_share = 0.2
    target_share = 0.04
    whole_trace_share = 1.0
    whole_target_share = 0.6

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        if isinstance(tower.served_head(), PoolerHead):
            return (
                "its pooler reads the tokens by an attention, and this method lets no gradient "
                "through the input of one; 'chefercam' comes nearest"
            )
        return refusal_of_windows(tower)

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        return note_on_queries(tower)

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[StateTrace | RowsTrace | TokensTrace, ...], Tensor]:
        """See :meth:`Method.trace`: the head's state, then every block from the first explained."""
        for index in range(layers[0]):
            tokens = tower.forward_block(tokens, index)
        blocks: list[RowsTrace | TokensTrace] = []
        rows = read_rows(tower, head)
        # The rows of an average are all rows: their logits would be a whole matrix.
        few = has_few_rows(tower, head)
        for index in range(layers[0], tower.depth):
            attention, output = tower.run_block(tokens, index)
            if few:
                row = attention.of_queries(rows)
                blocks.append(
                    RowsTrace(
                        attention.values.contiguous(),
                        row.logits().sigmoid(),
                        tokens[:, rows].contiguous(),
                        row.output.contiguous(),
                    )
                )
            else:
                blocks.append(TokensTrace(tokens))
            tokens = output
        state = head.state(tokens)
        return (StateTrace(state.contiguous()), *blocks), head.features(state)

    def maps(
        self,
        tower: Tower,
        blocks: tuple[StateTrace | RowsTrace | TokensTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del parts
        start, *explained = blocks
        if not isinstance(start, StateTrace):
            raise InvalidOptionError("The trace was made by another model.", field="trace")
        rows = read_rows(tower, head)
        maps: list[Tensor] = []
        gradient: Tensor | None = None
        for index in range(tower.depth - 1, layers[0] - 1, -1):
            block = explained[index - layers[0]]
            attention: Attention | None = None
            if isinstance(block, RowsTrace):
                tokens, output = block.tokens, block.output
            elif isinstance(block, StateTrace):
                raise InvalidOptionError("The trace was made by another model.", field="trace")
            else:
                attention = tower.attend(block.tokens, index).of_queries(rows)
                tokens, output = block.tokens[:, rows], attention.output
            if gradient is None:
                gradient = row_gradient(tower, head, start.state, targets, output.shape[2])
            back = walk_back(tower, index, tokens, output, gradient)
            gradient = back.at_input
            if index not in layers:
                continue
            if isinstance(block, RowsTrace):
                maps.append(_gated(block, back.at_output))
            elif attention is not None:
                maps.append(_gated_mean(attention, back.at_output))
        return reduce(torch.add, maps)[..., tower.prefix_tokens :]


def _gated(block: RowsTrace, gradient: Tensor) -> Tensor:
    """Compute a block's map ``[B, P, N]``, the mean over rows and the sum over heads."""
    values = at_least_float32(block.values).unsqueeze(1).transpose(-1, -2)
    positive = (gradient @ values).relu_().mul_(block.gate.unsqueeze(1))
    return positive.sum(2).mean(2)


def _gated_mean(attention: Attention, gradient: Tensor) -> Tensor:
    """Compute :func:`_gated` of many rows, without a whole matrix."""
    heads, rows = gradient.shape[2:4]
    start = gradient.new_full((1, 1, rows), heads / rows)
    parts = [
        weighted_relevance(attention, each, start, lambda some: some.logits().sigmoid())
        for each in torch.split(gradient, 1, 1)
    ]
    return torch.cat(parts, 1)


register(Agcam())
