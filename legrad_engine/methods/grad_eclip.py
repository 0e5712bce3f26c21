"""Grad-ECLIP: values of the last attention, weighted by gradient and by likeness to the query."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, at_least_float32, precise
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.registry import register
from legrad_engine.methods.rows import Reading, RowMethod


class GradEclip(RowMethod):
    """``ReLU(lambda_j sum_h G_0 . V_j)``, lambda being cos(W_O q_0, W_O k_j) from 0 to 1.

    The paper's code computes the last attention with one head; this is the model's own attention.
    """

    name = "grad-eclip"
    title = "Grad-ECLIP"
    description = (
        "The gradient of the score with respect to each patch's value in the last block,\n"
        "weighted by how much the patch's key is like the class token's query.\n"
        "Only what speaks for the target is kept."
    )
    source = "Zhao et al., ICML 2024, arXiv 2502.18816"

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        reason = super().refusal(tower)
        if reason is None and _projection(tower, tower.served_head()) is None:
            reason = (
                "its attention has no output matrix of its own, in whose space queries and keys "
                "could be compared; 'chefercam' comes nearest"
            )
        return reason

    def patch_maps(
        self, tower: Tower, head: ScoreHead, reading: Reading, gradient: Tensor
    ) -> Tensor:
        """See :meth:`RowMethod.patch_maps`."""
        projection = _projection(tower, head)
        if projection is None:
            raise UnsupportedModelError(f"{self.name} needs an output matrix of the attention.")
        attention = reading.attention
        queries = _directions(projection, attention.queries).mean(1, keepdim=True)
        keys = _directions(projection, attention.keys[:, :, reading.prefix :])
        likeness = (keys @ queries.transpose(-1, -2)).transpose(-1, -2)
        lowest, highest = likeness.aminmax(dim=-1, keepdim=True)
        spread = highest - lowest
        # Where no patch is more alike than another, likeness says nothing.
        weights = torch.where(spread > 0, (likeness - lowest) / spread, 1.0)
        per_value = gradient.mean(3).flatten(2) @ reading.values.transpose(-1, -2).flatten(1, 2)
        return (weights * per_value).relu_()


def _projection(tower: Tower, head: ScoreHead) -> nn.Module | None:
    if isinstance(head, PoolerHead):
        return head.output_projection
    return tower.output_projection(tower.depth - 1)


def _directions(projection: nn.Module, heads: Tensor) -> Tensor:
    """Project ``[B, heads, N, head_dim]`` and return unit vectors ``[B, N, d]``."""
    merged = at_least_float32(heads).transpose(1, 2).flatten(2)
    return F.normalize(precise(projection)(merged), dim=-1)


register(GradEclip())
