"""Sum of ReLU(G V^T) over query rows and heads, without the whole of G V^T in memory.

The product has heads x rows x keys elements for every target. It is computed in tiles, which are
small enough for a processor's cache on the CPU and large enough to use an accelerator fully.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from legrad_engine.families.heads import at_least_float32

# Of gradient and values, as :func:`sum_rectified_product`.
RectifiedProduct = Callable[[Tensor, Tensor], Tensor]

_TILE_ELEMENTS = {"cpu": 1_250_000}
_TILE_ELEMENTS_ELSEWHERE = 64_000_000


def sum_rectified_product(gradient: Tensor, values: Tensor) -> Tensor:
    """Sum ``ReLU(G_i . V_j)`` over heads and query rows i, for every key token j.

    LeGrad (arXiv 2404.03214) rectifies d s / d A = G V^T, with G = d s / d (A V), and averages it
    over heads and rows; the caller divides.

    Args:
        gradient: G, ``[B, P, heads, R, head_dim]`` for P targets and R query rows.
        values: V, ``[B, heads, N, head_dim]``.

    Returns:
        ``[B, P, N]``, at least float32.
    """
    batch, targets, heads, rows, _ = gradient.shape
    keys = values.shape[2]
    tile_elements = _TILE_ELEMENTS.get(gradient.device.type, _TILE_ELEMENTS_ELSEWHERE)
    transposed = values.transpose(-1, -2)
    row_elements = heads * keys
    if row_elements * rows * targets <= tile_elements:
        step = max(1, tile_elements // (row_elements * rows * targets))
        parts = [
            _whole(gradient[start : start + step], transposed[start : start + step])
            for start in range(0, batch, step)
        ]
        return torch.cat(parts)
    result = torch.zeros(
        batch, targets, keys, device=gradient.device, dtype=_accumulator(gradient.dtype)
    )
    step = max(1, min(rows, tile_elements // row_elements))
    for image in range(batch):
        for target in range(targets):
            for start in range(0, rows, step):
                tile = torch.bmm(
                    gradient[image, target, :, start : start + step], transposed[image]
                )
                result[image, target] += tile.relu_().sum((0, 1), dtype=result.dtype)
    return result


def sum_product(gradient: Tensor, values: Tensor) -> Tensor:
    """Sum ``G_i . V_j`` over heads and query rows i, for every key token j, without ReLU.

    Args:
        gradient: see :func:`sum_rectified_product`.
        values: see :func:`sum_rectified_product`.

    Returns:
        ``[B, P, N]``, at least float32.
    """
    rows = at_least_float32(gradient).sum(3)
    return torch.einsum("bphd,bhnd->bpn", rows, at_least_float32(values))


def _whole(gradient: Tensor, transposed: Tensor) -> Tensor:
    """Compute all targets and rows of some images in one product."""
    images, targets, heads, rows, width = gradient.shape
    # Targets become rows, so that each head's values are read once.
    stacked = gradient.transpose(1, 2).reshape(images * heads, targets * rows, width)
    keys = transposed.shape[-1]
    product = torch.bmm(stacked, transposed.reshape(images * heads, width, keys)).relu_()
    product = product.view(images, heads, targets, rows, keys)
    return product.sum((1, 3), dtype=_accumulator(product.dtype))


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return at_least_float32(torch.empty(0, dtype=dtype)).dtype
