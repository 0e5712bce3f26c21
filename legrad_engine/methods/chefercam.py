"""CheferCAM: attention weights times their positive gradients, in the last block or over many."""

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, at_least_float32
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.names import TakenLayers
from legrad_engine.methods.reading import note_on_queries, read_rows, refusal_of_windows
from legrad_engine.methods.registry import register
from legrad_engine.methods.rows import (
    LastBlockTrace,
    Reading,
    TokensTrace,
    trace_last_block,
    trace_tokens,
    weighted_relevance,
)


class CheferCam(Method[LastBlockTrace | TokensTrace]):
    """One row of relevance, walked from the last block to the first explained one.

    ``v <- v + v C`` with ``C = mean_h A * ReLU(d s / d A)``, which starts as the class token's row
    of the identity. The map is what the walk has added to that row. In the last block alone the
    gradient stops at the attention; more blocks need a backward pass through all of them.
    """

    name = "chefercam"
    title = "CheferCAM"
    description = (
        "Attention weights times their positive gradients, the mean over heads.\n"
        "The last block alone by default, as its authors do for CLIP.\n"
        "More blocks (layers) are followed back from the last to the first of them."
    )
    source = "Chefer et al., ICCV 2021, arXiv 2103.15679"
    takes_layers = "last-blocks"
    whole_trace_share = 0.8
    whole_target_share = 1.1

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        return refusal_of_windows(tower)

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        return note_on_queries(tower)

    def layers_taken(self, tower: Tower) -> TakenLayers:
        """See :meth:`Method.layers_taken`: the explained pooler stands behind the last block."""
        return "last" if isinstance(tower.served_head(), PoolerHead) else self.takes_layers

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[LastBlockTrace | TokensTrace, ...], Tensor]:
        """See :meth:`Method.trace`."""
        if layers == (tower.depth - 1,):
            trace, features = trace_last_block(tower, tokens, head)
            return (trace,), features
        first, features = trace_tokens(tower, tokens, layers[0], head)
        return (first,), features

    def maps(
        self,
        tower: Tower,
        blocks: tuple[LastBlockTrace | TokensTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del parts
        (trace,) = blocks
        if isinstance(trace, TokensTrace):
            return _walk(tower, trace.tokens, layers[0], head, targets)
        reading = Reading.of(tower, trace, head)
        maps = []
        for target in torch.split(targets, 1 if reading.rows > 1 else targets.shape[1], 1):
            gradient = reading.gradient(tower, trace, head, target)
            start = gradient.new_full((1, 1, reading.rows), 1 / reading.rows)
            maps.append(weighted_relevance(reading.attention, gradient, start))
        return torch.cat(maps, 1)[..., reading.prefix :]


def _walk(tower: Tower, tokens: Tensor, first: int, head: ScoreHead, targets: Tensor) -> Tensor:
    """Compute the map over the blocks from ``first`` on, ``[B, P, patches]``."""
    attentions: list[Attention] = []
    with torch.enable_grad():
        current = tokens.detach().requires_grad_()
        for index in range(first, tower.depth):
            attention, current = tower.run_block(current, index)
            attentions.append(attention)
        embeddings = F.normalize(head.features(head.state(current)), dim=-1)
        scores = torch.einsum("be,bpe->p", embeddings, at_least_float32(targets)).unbind()
    outputs = [attention.output for attention in attentions]
    batch, count = tokens.shape[:2]
    start = embeddings.new_zeros(batch, 1, count)
    rows = read_rows(tower, head)
    start[..., rows] = 1 / start[0, 0, rows].numel()
    # The gradients of an average are too small for half precision.
    scale = torch.full_like(scores[0], count)
    maps: list[Tensor] = []
    for score in scores:
        gradients = torch.autograd.grad(score, outputs, scale, retain_graph=True)
        relevance = start
        for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
            precise_gradient = at_least_float32(gradient.unsqueeze(1)) / count
            relevance = relevance + weighted_relevance(attention, precise_gradient, relevance)
        maps.append(relevance - start)
    return torch.cat(maps, 1)[..., tower.prefix_tokens :].detach()


register(CheferCam())
