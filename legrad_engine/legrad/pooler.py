"""LeGrad through an attentional pooler: the gradient is taken of the pooler's own attention.

Each explained block's output goes through the pooler. The score depends on it only through the
output of the pooler's attention, one query row for each image. The layers behind that row are so
small that autograd differentiates them for all images and targets at once, at almost no cost.
"""

from dataclasses import dataclass

from torch import Tensor

from legrad_engine.families.heads import at_least_float32, target_gradient
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.legrad.rectified_product import RectifiedProduct


@dataclass(frozen=True, slots=True)
class PoolerTrace:
    """The pooler's attention on one block's output.

    Attributes:
        values: ``[B, heads, N, head_dim]``.
        output: ``[B, heads, Q, head_dim]``, for the Q queries that make the embedding.
    """

    values: Tensor
    output: Tensor


def attribute_block(
    trace: PoolerTrace, head: PoolerHead, targets: Tensor, product: RectifiedProduct
) -> Tensor:
    """Compute LeGrad's layer map: the mean over heads and queries of ReLU(d s / d A).

    Args:
        trace: the pooler's trace for B images.
        head: the pooler's head.
        targets: ``[B, P, e]`` unit vectors.
        product: computes the sum of ReLU(G V^T).

    Returns:
        ``[B, P, patches]``, at least float32.
    """
    gradient = target_gradient(head.features, trace.output, targets)
    values = at_least_float32(trace.values[:, :, head.prefix_keys :])
    heads, queries = trace.output.shape[1:3]
    return product(gradient, values) / (heads * queries)
