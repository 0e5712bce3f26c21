"""TextSpan: the direct effect of every block, head and patch on the served cosine."""

from functools import reduce

import torch
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.direct_effects import (
    DirectEffects,
    additive_refusal,
    directions_of,
    passes_ahead,
    reads_one_token,
    sum_over_heads,
    trace_direct_effects,
)
from legrad_engine.methods.registry import register

_NOTE_ON_AVERAGE = "The model averages its patches: each attention is the mean over their queries."


class TextSpan(Method[DirectEffects]):
    """TextSpan's maps: the direct effects of the patches, summed over blocks and heads."""

    name = "textspan"
    title = "TextSpan (direct effect)"
    description = (
        "The share of each patch in the cosine itself, through the attention of every block.\n"
        "Additive: patches, class token, MLPs and input sum to the similarity.\n"
        "Signed: negative where a patch lowers it."
    )
    source = "Gandelsman et al., ICLR 2024, arXiv 2310.05916"
    default_layers = "all"
    trace_share = 0.1
    target_share = 0.03
    whole_trace_share = 0.35
    whole_target_share = 0.01

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        return additive_refusal(tower)

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        if passes_ahead(tower):
            return (
                "The model averages its patches: each attention is the mean over their queries, "
                "weighted by the final norm of each, which takes a second forward pass."
            )
        return None if reads_one_token(tower) else _NOTE_ON_AVERAGE

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[DirectEffects, ...], Tensor]:
        """See :meth:`Method.trace`."""
        del head
        return trace_direct_effects(tower, tokens, layers)

    def maps(
        self,
        tower: Tower,
        blocks: tuple[DirectEffects, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del head, parts
        directions = directions_of(tower, blocks[0].pooled, targets)
        return reduce(
            torch.add,
            (
                tower.on_grid(sum_over_heads(tower, effects, index, directions), index)
                for index, effects in zip(layers, blocks, strict=True)
            ),
        )

    def work(
        self, tower: Tower, layers: tuple[int, ...], targets: int, *, traced: bool = False
    ) -> float:
        """See :meth:`Method.work`: a norm before the average takes a pass of its own."""
        work = super().work(tower, layers, targets, traced=traced)
        return work if traced else work + passes_ahead(tower)


register(TextSpan())
