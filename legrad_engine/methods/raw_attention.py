"""Raw attention: the weights with which the score's own query reads the patches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.reading import (
    mean_over_queries,
    note_on_queries,
    read_rows,
    refusal_of_windows,
)
from legrad_engine.methods.registry import register


@dataclass(frozen=True, slots=True)
class WeightsTrace:
    """One block's attention.

    Attributes:
        weights: ``[B, heads, patches]``, the mean over the queries that the score reads.
    """

    weights: Tensor


class RawAttention(Method[WeightsTrace]):
    """Attention of the class token, or of the queries that take its place."""

    name = "raw-attention"
    title = "Raw attention"
    description = (
        "The attention weights of the last block, from the class token to each patch.\n"
        "The mean over its heads, or a map for each head with heads=each.\n"
        "No gradient: the map is the same for every target."
    )
    source = "as shown by Caron et al., ICCV 2021, arXiv 2104.14294"
    targeted = False
    splits_heads = True
    trace_share = 0.05
    target_share = 0.0

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        return refusal_of_windows(tower)

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        return note_on_queries(tower)

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[WeightsTrace, ...], Tensor]:
        """See :meth:`Method.trace`."""
        blocks: list[WeightsTrace] = []
        for index in range(tower.depth):
            if index not in layers:
                tokens = tower.forward_block(tokens, index)
            elif isinstance(head, PoolerHead):
                tokens = tower.forward_block(tokens, index)
                weights = mean_over_queries(head.attend(tokens))
                blocks.append(WeightsTrace(weights[..., head.prefix_keys :].contiguous()))
            else:
                attention, tokens = tower.run_block(tokens, index)
                weights = mean_over_queries(attention.of_queries(read_rows(tower, head)))
                blocks.append(WeightsTrace(tower.on_grid(weights, index).contiguous()))
        return tuple(blocks), head.features(head.state(tokens))

    def maps(
        self,
        tower: Tower,
        blocks: tuple[WeightsTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del head, parts
        weights = self.head_maps(tower, blocks, layers)
        return weights.mean(1, keepdim=True).expand(-1, targets.shape[1], -1)

    def head_maps(
        self, tower: Tower, blocks: tuple[WeightsTrace, ...], layers: tuple[int, ...]
    ) -> Tensor:
        """See :meth:`Method.head_maps`: the mean over the blocks."""
        del tower, layers
        return torch.stack([block.weights for block in blocks]).mean(0)


register(RawAttention())
