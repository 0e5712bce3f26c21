"""Attention of vectors to each other, by PyTorch's fused attention: no matrix is kept."""

import torch.nn.functional as F
from torch import Tensor


def attend_to_alike(vectors: Tensor, values: Tensor, scale: float | Tensor) -> Tensor:
    """Compute ``softmax(scale * vectors vectors^T) values``.

    Args:
        vectors: ``[B, heads, N, head_dim]``.
        values: ``[B, heads, N, head_dim]``.
        scale: a number, or ``[B, 1, 1, 1]``.

    Returns:
        ``[B, heads, N, head_dim]``.
    """
    if isinstance(scale, Tensor):
        return F.scaled_dot_product_attention(vectors * scale, vectors, values, scale=1.0)
    return F.scaled_dot_product_attention(vectors, vectors, values, scale=scale)
