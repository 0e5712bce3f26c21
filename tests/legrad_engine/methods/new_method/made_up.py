"""A new explanation method in one file, as legrad_engine/methods would hold it.

It shows how much each patch of the last block's output resembles the target, by position alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.registry import register


@dataclass(frozen=True, slots=True)
class Lengths:
    """The length of every patch's token ``[B, patches]``."""

    lengths: Tensor


class MadeUp(Method[Lengths]):
    """The lengths of the last block's tokens, times the target's first value."""

    name = "made-up"
    title = "Made up"
    description = "The length of each token.\nTimes the first value of the target."
    source = "nobody"
    target_share = 0.0

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        return None if "cls" in tower.scores else "it needs a class token"

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[Lengths, ...], Tensor]:
        """See :meth:`Method.trace`."""
        blocks = []
        for index in range(tower.depth):
            tokens = tower.forward_block(tokens, index)
            if index in layers:
                blocks.append(Lengths(tokens[:, tower.prefix_tokens :].norm(dim=-1)))
        return tuple(blocks), head.features(head.state(tokens))

    def maps(
        self,
        tower: Tower,
        blocks: tuple[Lengths, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        lengths = torch.stack([block.lengths for block in blocks]).sum(0)
        return lengths[:, None] * targets[..., :1].abs().to(lengths)


register(MadeUp())
