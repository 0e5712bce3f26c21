"""The attention of the queries that a model's score reads, and its gradient in the last block."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import (
    FeatureMapHead,
    ScoreHead,
    TokenHead,
    at_least_float32,
    target_gradient,
)
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.backward import walk_back
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.reading import (
    has_few_rows,
    mean_over_queries,
    note_on_queries,
    read_rows,
    refusal_of_windows,
)

# Elements of a tile of an attention matrix, or of gradients of hidden layers, at a time.
_TILE_ELEMENTS = {"cpu": 4_000_000}
_TILE_ELEMENTS_ELSEWHERE = 64_000_000


def weighted_relevance(
    attention: Attention,
    gradient: Tensor,
    start: Tensor,
    gate: Callable[[Attention], Tensor] = Attention.weights,
) -> Tensor:
    """Compute ``sum_i start_i mean_h gate[h, i, j] ReLU(d s / d A[h, i, j])``.

    Args:
        attention: of R queries.
        gradient: d s / d (A V), ``[B, P, heads, R, head_dim]``.
        start: ``[B, P, R]``, or a shape that broadcasts to it.
        gate: from an attention of some queries to ``[B, heads, queries, N]``; A by default.

    Returns:
        ``[B, P, N]``, at least float32.
    """
    values = at_least_float32(attention.values).unsqueeze(1).transpose(-1, -2)
    parts = []
    for rows in _row_tiles(attention, gradient.shape[1]):
        weights = gate(attention.of_queries(rows)).unsqueeze(1)
        positive = (at_least_float32(gradient[..., rows, :]) @ values).relu_().mul_(weights)
        parts.append((positive.mean(2) * start[..., rows, None]).sum(2))
    return reduce(torch.add, parts)


def _row_tiles(attention: Attention, targets: int) -> Iterator[slice]:
    batch, heads, rows, _ = attention.queries.shape
    keys = attention.keys.shape[2]
    step = max(1, _limit(attention.queries) // (batch * heads * keys * targets))
    return (slice(first, first + step) for first in range(0, rows, step))


def _limit(tensor: Tensor) -> int:
    return _TILE_ELEMENTS.get(tensor.device.type, _TILE_ELEMENTS_ELSEWHERE)


def reads_no_patch(tower: Tower, head: ScoreHead) -> bool:
    """Tell whether the score reads the class token, or a few tokens like it, and no patch."""
    return (
        isinstance(head, TokenHead)
        and head.rows == read_rows(tower, head)
        and has_few_rows(tower, head)
    )


@dataclass(frozen=True, slots=True)
class TokensTrace:
    """The input of one block.

    Attributes:
        tokens: with B as its first dimension.
    """

    tokens: Tensor


@dataclass(frozen=True, slots=True)
class LastBlockTrace:
    """The last block, or the attentional pooler behind it.

    Attributes:
        tokens: its input, ``[B, N, d]``.
        state: what the score's head reads of its output, see :meth:`ScoreHead.state`.
    """

    tokens: Tensor
    state: Tensor


def trace_last_block(
    tower: Tower, tokens: Tensor, head: ScoreHead
) -> tuple[LastBlockTrace, Tensor]:
    """Run one forward pass and keep the last block.

    Args:
        tower: the tower at the input's size.
        tokens: the input of the first block.
        head: the head of the model's own score.

    Returns:
        The trace, and the model's own output features; see :meth:`Method.trace`.
    """
    last = tower.depth - 1
    for index in range(last):
        tokens = tower.forward_block(tokens, index)
    output = tower.forward_block(tokens, last)
    state = head.state(output)
    pools = isinstance(head, PoolerHead)
    # The states of some heads are views of the whole output.
    trace = LastBlockTrace(output if pools else tokens, state.contiguous())
    return trace, head.features(state)


@dataclass(frozen=True, slots=True)
class Reading:
    """The attention through which the score reads the picture.

    Attributes:
        attention: of the R queries that the score reads.
        prefix: number of keys before the patches.
    """

    attention: Attention
    prefix: int

    @classmethod
    def of(cls, tower: Tower, trace: LastBlockTrace, head: ScoreHead) -> "Reading":
        """Compute the attention of a trace."""
        if isinstance(head, PoolerHead):
            return cls(head.attend(trace.tokens), head.prefix_keys)
        attention = tower.attend(trace.tokens, tower.depth - 1)
        return cls(attention.of_queries(read_rows(tower, head)), tower.prefix_tokens)

    @property
    def rows(self) -> int:
        """Number of queries."""
        return self.attention.queries.shape[2]

    @property
    def values(self) -> Tensor:
        """The values of the patches ``[B, heads, patches, head_dim]``, at least float32."""
        return at_least_float32(self.attention.values[:, :, self.prefix :])

    def mean_weights(self) -> Tensor:
        """Compute the mean weights over queries ``[B, heads, patches]``, at least float32."""
        return mean_over_queries(self.attention)[..., self.prefix :]

    def gradient(
        self, tower: Tower, trace: LastBlockTrace, head: ScoreHead, targets: Tensor
    ) -> Tensor:
        """Compute G = d s / d (A V) of the queries that the score reads.

        Args:
            tower: the tower at the input's size.
            trace: the trace that the attention was computed of.
            head: the head of the score.
            targets: ``[B, P, e]`` unit vectors.

        Returns:
            ``[B, P, heads, R, head_dim]``, at least float32.
        """
        output = self.attention.output
        if isinstance(head, PoolerHead):
            return target_gradient(head.features, output, targets)
        rows = read_rows(tower, head)
        return walk_back(
            tower,
            tower.depth - 1,
            trace.tokens[:, rows],
            output,
            row_gradient(tower, head, trace.state, targets, output.shape[2]),
        ).at_output


def row_gradient(
    tower: Tower, head: ScoreHead, state: Tensor, targets: Tensor, count: int
) -> Tensor:
    """Compute the gradient of the score with respect to the rows of the last block's output.

    Args:
        tower: the tower.
        head: the head of the score.
        state: from :meth:`ScoreHead.state`.
        targets: ``[B, P, e]`` unit vectors.
        count: number of rows, of :func:`read_rows`.

    Returns:
        ``[B, P, rows, d]``, or one row where all have the same gradient; at least float32.
    """
    if isinstance(head, FeatureMapHead):
        whole = target_gradient(head.features, state, targets)
        return whole[:, :, read_rows(tower, head)]
    if not isinstance(head, TokenHead):
        raise TypeError(f"{type(head).__name__} reads no token rows.")
    gradient = head.gradient(state, targets)
    return gradient / count if head.averaged else gradient[:, :, :count]


def trace_tokens(
    tower: Tower, tokens: Tensor, first: int, head: ScoreHead
) -> tuple[TokensTrace, Tensor]:
    """Run one forward pass and keep the input of one block.

    Args:
        tower: the tower.
        tokens: the input of the first block.
        first: index of the block whose input is kept.
        head: the head of the score.

    Returns:
        The trace, and the features ``[B, e]``, see :meth:`Method.trace`.
    """
    for index in range(first):
        tokens = tower.forward_block(tokens, index)
    kept = tokens
    for index in range(first, tower.depth):
        tokens = tower.forward_block(tokens, index)
    return TokensTrace(kept), head.features(head.state(tokens))


class RowMethod(Method[LastBlockTrace]):
    """A method that reads the attention of the score's own queries in the last block."""

    takes_layers = "last"
    # The last block's attention is computed a second time, for its queries and keys.
    trace_share = 0.0
    target_share = 0.1
    whole_trace_share = 1.7
    whole_target_share = 0.36

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`: windows."""
        return refusal_of_windows(tower)

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        return note_on_queries(tower)

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[LastBlockTrace, ...], Tensor]:
        """See :meth:`Method.trace`."""
        del layers
        trace, features = trace_last_block(tower, tokens, head)
        return (trace,), features

    def maps(
        self,
        tower: Tower,
        blocks: tuple[LastBlockTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del layers, parts
        (trace,) = blocks
        reading = Reading.of(tower, trace, head)
        batch, heads, rows, width = reading.attention.output.shape
        # A hidden layer is about four times as wide as a token.
        step = max(1, _limit(trace.tokens) // (4 * batch * rows * heads * width))
        return torch.cat(
            [
                self.patch_maps(tower, head, reading, reading.gradient(tower, trace, head, some))
                for some in torch.split(targets, step, 1)
            ],
            1,
        )

    @abstractmethod
    def patch_maps(
        self, tower: Tower, head: ScoreHead, reading: Reading, gradient: Tensor
    ) -> Tensor:
        """Compute the map of some targets over the patches.

        Args:
            tower: the tower at the input's size.
            head: the head of the score.
            reading: the attention of the queries that the score reads.
            gradient: from :meth:`Reading.gradient`.

        Returns:
            ``[B, P, patches]``, at least float32.
        """
