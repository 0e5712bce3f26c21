"""Attention rollout: the weights of all blocks multiplied, with the residual as an identity.

Source: Abnar, Zuidema, ACL 2020. The map is a row of ``M_L ... M_1``, with M the mean of a block's
heads plus the identity, its rows divided by their sums. Only that row is computed: it walks from
the last block to the first. The rows of a softmax sum to 1, so their sums with the identity are 2.
"""

from dataclasses import dataclass

from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.reading import (
    mean_over_heads,
    mean_over_queries,
    note_on_queries,
    read_rows,
    refusal_of_windows,
)
from legrad_engine.methods.registry import register


@dataclass(frozen=True, slots=True)
class RolloutTrace:
    """The map itself, which depends on no target.

    Attributes:
        row: ``[B, 1, patches]``.
    """

    row: Tensor


class Rollout(Method[RolloutTrace]):
    """Attention rollout."""

    name = "rollout"
    title = "Attention rollout"
    description = (
        "The attention of all blocks multiplied, each as the mean of its heads plus the residual.\n"
        "Starts from the class token in the last block and walks to the first.\n"
        "No gradient: the map is the same for every target."
    )
    source = "Abnar and Zuidema, ACL 2020, arXiv 2005.00928"
    targeted = False
    default_layers = "all"
    takes_layers = "last-blocks"
    trace_share = 0.1
    target_share = 0.0

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        return refusal_of_windows(tower)

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        return note_on_queries(tower)

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[RolloutTrace, ...], Tensor]:
        """See :meth:`Method.trace`."""
        matrices: list[Tensor] = []
        for index in range(tower.depth):
            if index not in layers:
                tokens = tower.forward_block(tokens, index)
                continue
            attention, tokens = tower.run_block(tokens, index)
            matrices.append(mean_over_heads(attention))
        row = _first_row(tower, tokens, head, matrices[-1])
        for matrix in reversed(matrices):
            row = (row + row @ matrix) / 2
        features = head.features(head.state(tokens))
        return (RolloutTrace(row[..., tower.prefix_tokens :].contiguous()),), features

    def maps(
        self,
        tower: Tower,
        blocks: tuple[RolloutTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del tower, layers, head, parts
        (block,) = blocks
        return block.row.expand(-1, targets.shape[1], -1)


def _first_row(tower: Tower, tokens: Tensor, head: ScoreHead, like: Tensor) -> Tensor:
    """Return the weights ``[B, 1, N]`` with which the score reads the last block's output."""
    row = like.new_zeros(len(like), 1, like.shape[-1])
    if isinstance(head, PoolerHead):
        weights = mean_over_queries(head.attend(tokens)).mean(1, keepdim=True)
        # The pooler reads all tokens, or the patches alone.
        row[..., -weights.shape[-1] :] = weights
        return row
    rows = read_rows(tower, head)
    row[..., rows] = 1 / row[..., rows].shape[-1]
    return row


register(Rollout())
