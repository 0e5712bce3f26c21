"""Resampling of learned position embeddings to another patch grid."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_positions(
    positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], prefix: int
) -> Tensor:
    """Resample position embeddings to another grid, as open_clip and timm do at loading.

    Args:
        positions: ``[prefix + rows * columns, d]``.
        old_grid: (rows, columns) of the patches.
        new_grid: (rows, columns) of the result.
        prefix: number of tokens before the patches; their embeddings are kept.

    Returns:
        ``[prefix + new rows * new columns, d]``.
    """
    patches = positions[prefix:]
    # Half precision has no bicubic kernel on every device.
    image = patches.float() if patches.dtype in (torch.float16, torch.bfloat16) else patches
    # PyTorch's antialiased resampling to one column is wrong in channels-last memory.
    image = image.reshape(1, *old_grid, -1).permute(0, 3, 1, 2).contiguous()
    image = F.interpolate(image, size=new_grid, mode="bicubic", antialias=True, align_corners=False)
    resampled = image.permute(0, 2, 3, 1).flatten(0, 2).to(positions.dtype)
    return torch.cat([positions[:prefix], resampled])
