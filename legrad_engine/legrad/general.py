"""LeGrad for any block: autograd through everything that follows the attention.

The attention's output becomes a leaf and the rest of the block runs with gradients, so the result
is exact for any MLP, norm and gating. This form serves blocks without a known closed form, and
tests check the closed form against it. No attention matrix is kept in memory.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, at_least_float32
from legrad_engine.legrad.rectified_product import RectifiedProduct


@dataclass(frozen=True, slots=True)
class GeneralTrace:
    """One block's input and attention.

    Attributes:
        values: ``[B, windows, heads, N, head_dim]``, the attention's values; one window where
            every token attends to every other.
        tokens: the block's input, with B as its first dimension.
        output: of the shape of ``values``, the attention's output.
    """

    values: Tensor
    tokens: Tensor
    output: Tensor


def attribute_block(
    tower: Tower,
    index: int,
    trace: GeneralTrace,
    head: ScoreHead,
    targets: Tensor,
    product: RectifiedProduct,
) -> Tensor:
    """Compute LeGrad's layer map: the mean over heads and rows of ReLU(d s / d A).

    Args:
        tower: the tower that the block belongs to.
        index: index of the block.
        trace: the block's trace for B images.
        head: the head of the explained score.
        targets: ``[B, P, e]`` unit vectors.
        product: computes the sum of ReLU(G V^T).

    Returns:
        ``[B * windows, P, N]``, one value per key token, at least float32.
    """
    values = trace.values.flatten(0, 1)
    heads, keys = values.shape[1:3]
    with torch.enable_grad():
        leaf = trace.output.detach().flatten(0, 1).requires_grad_()
        finished = tower.finish_block(trace.tokens.detach(), leaf, index)
        embeddings = F.normalize(head.features(head.state(finished)), dim=-1)
        scores = torch.einsum("be,bpe->pb", embeddings, at_least_float32(targets))
        # Scaled by the token count: the gradients of an average are too small for half precision.
        gradients = [
            torch.autograd.grad(score.sum() * keys, leaf, retain_graph=True)[0] for score in scores
        ]
    maps = [product(gradient.unsqueeze(1), values) for gradient in gradients]
    return torch.cat(maps, dim=1) / (heads * keys * keys)
