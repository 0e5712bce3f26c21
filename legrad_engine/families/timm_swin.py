"""timm's SwinTransformer, whose blocks attend within windows."""

import torch
from timm.models.swin_transformer import SwinTransformer, window_reverse
from torch import Tensor, nn

from legrad_engine.families.base import Tower
from legrad_engine.families.registry import Family, register
from legrad_engine.families.timm_stages import LastStageTower


class SwinTower(LastStageTower):
    """timm's SwinTransformer. Its tokens are ``[B, rows, columns, d]``."""

    family = "timm-swin"
    attention_kind = "self-attention in windows"

    def __init__(self, trunk: SwinTransformer, adapter: nn.Module | None = None) -> None:
        """Wrap a trunk; see :class:`LastStageTower`."""
        size = tuple(trunk.patch_embed.img_size)
        super().__init__(trunk, adapter, "layers", trunk.norm, size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        return self._before_last_stage(pixels, "patch_embed")

    def at(self, image_size: tuple[int, int]) -> Tower:
        """See :meth:`TimmTower.only_own_size`."""
        return self.only_own_size(image_size)

    def patches_of(self, tokens: Tensor) -> Tensor:
        """See :meth:`Tower.patches_of`."""
        return tokens.flatten(1, 2)

    def on_grid(self, maps: Tensor, index: int) -> Tensor:
        """Merge the windows' maps into the grid: join, crop the padding, undo the cyclic shift."""
        block = self.block(index)
        rows, columns = block.input_resolution
        height, width = block.window_size
        padded_rows, padded_columns = -(-rows // height) * height, -(-columns // width) * width
        windows = maps.transpose(1, 2).reshape(-1, height, width, maps.shape[1])
        grid: Tensor = window_reverse(windows, (height, width), padded_rows, padded_columns)
        grid = grid[:, :rows, :columns]
        if any(block.shift_size):
            grid = torch.roll(grid, shifts=tuple(block.shift_size), dims=(1, 2))
        return grid.flatten(1, 2).transpose(1, 2)


register(
    Family(
        name=SwinTower.family,
        classes=(SwinTransformer,),
        build=lambda encoder: SwinTower(encoder.trunk, encoder.adapter),
        timm_modules=("swin_transformer",),
        plain_models="SwinTransformer",
    )
)
