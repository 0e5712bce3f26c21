"""LeGrad as a registered method; :mod:`legrad_engine.legrad.route` computes it."""

from functools import reduce

import torch
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead
from legrad_engine.families.scores import Score
from legrad_engine.layers import DEFAULT_LAYERS
from legrad_engine.legrad.route import BlockTrace, attribute_block, trace_blocks
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.names import DEFAULT_METHOD
from legrad_engine.methods.registry import register

# With an attentional pooler the backward pass does not go through the blocks themselves.
_POOLER_SHARE = 0.03


class LeGrad(Method[BlockTrace]):
    """LeGrad, the default."""

    name = DEFAULT_METHOD
    title = "LeGrad"
    description = (
        "The gradient of each block's own score with respect to its attention.\n"
        "Positive values are averaged over heads and queries and summed over the blocks.\n"
        "Tells targets apart; takes any number of blocks."
    )
    source = "Bousselham et al., ICCV 2025, arXiv 2404.03214"
    default_layers = DEFAULT_LAYERS
    rectified = True
    # The backward pass through one block costs about 0.42 of its forward pass, for each target.
    target_share = 0.42

    def score(self, tower: Tower, asked: Score | None) -> Score:
        """See :meth:`Method.score`: any score of the tower."""
        score = tower.scores[0] if asked is None else asked
        tower.score_head(score)
        return score

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[BlockTrace, ...], Tensor]:
        """See :meth:`Method.trace`."""
        return trace_blocks(tower, tokens, layers, head)

    def maps(
        self,
        tower: Tower,
        blocks: tuple[BlockTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        return reduce(
            torch.add,
            (
                attribute_block(tower, index, block, head, targets, parts.folded, parts.product)
                for index, block in zip(layers, blocks, strict=True)
            ),
        )

    def work(
        self, tower: Tower, layers: tuple[int, ...], targets: int, *, traced: bool = False
    ) -> float:
        """See :meth:`Method.work`."""
        share = _POOLER_SHARE if tower.scores[0] == "pooler" else self.target_share
        backward = share * tower.explained_share * len(layers) * targets / tower.depth
        return backward if traced else 1 + backward


register(LeGrad())
