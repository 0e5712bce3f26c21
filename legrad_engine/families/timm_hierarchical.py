"""timm's hierarchical towers: Swin, with attention in windows, and FastViT.

Only blocks of the last stage are explained: the score head reads that stage's tokens and no others,
so the score of an earlier block is not defined.
"""

from typing import Any

import torch
from timm.models.fastvit import AttentionBlock, FastVit
from timm.models.swin_transformer import SwinTransformer, window_reverse
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import FeatureMapHead, Score, ScoreHead, at_least_float32, precise
from legrad_engine.families.timm_base import TimmTower


class _LastStageTower(TimmTower):
    """A tower of stages whose last one is explained."""

    scores: tuple[Score, ...] = ("mean",)
    prefix_tokens = 0
    # The last stage's part of a forward pass, about.
    explained_share = 0.15

    def __init__(
        self,
        trunk: Any,
        adapter: nn.Module | None,
        stages: str,
        before_pooling: nn.Module,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__(trunk, adapter)
        self._stages = stages
        self.image_size = image_size
        stride = trunk.feature_info[-1]["reduction"]
        self.patch_size = (stride, stride)
        self.depth = len(self._last_stage.blocks)
        before, head = precise(before_pooling), precise(trunk.head)
        after: Any = None if adapter is None else precise(adapter)

        def features(tokens: Tensor) -> Tensor:
            pooled: Tensor = head(before(tokens), pre_logits=after is None)
            return pooled if after is None else after(pooled)

        self._head = FeatureMapHead(features)
        with torch.no_grad():
            pixels = next(trunk.parameters()).new_zeros(1, 3, *image_size)
            self.embedding_size = features(at_least_float32(self.embed(pixels))).shape[-1]

    @property
    def _last_stage(self) -> Any:
        return getattr(self._trunk, self._stages)[-1]

    def _before_last_stage(self, pixels: Tensor, stem: str) -> Tensor:
        tokens: Tensor = getattr(self._trunk, stem)(pixels)
        for stage in getattr(self._trunk, self._stages)[:-1]:
            tokens = stage(tokens)
        downsampled: Tensor = self._last_stage.downsample(tokens)
        return downsampled

    def block(self, index: int) -> Any:
        """See :meth:`TimmTower.block`."""
        return self._last_stage.blocks[index]

    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_block`."""
        output: Tensor = self.block(index)(tokens)
        return output

    def score_head(self, score: Score) -> ScoreHead:
        """See :meth:`Tower.score_head`."""
        self.require_score(score, "this model averages its patches")
        return self._head

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        return self._head


class SwinTower(_LastStageTower):
    """timm's SwinTransformer. Its tokens are ``[B, rows, columns, d]``."""

    family = "timm-swin"

    def __init__(self, trunk: SwinTransformer, adapter: nn.Module | None = None) -> None:
        """Wraps a trunk; see :class:`TimmTower`.

        Raises:
            UnsupportedModelError: the trunk does not average its patches.
        """
        _require_average(trunk)
        size = tuple(trunk.patch_embed.img_size)
        super().__init__(trunk, adapter, "layers", trunk.norm, size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        return self._before_last_stage(pixels, "patch_embed")

    def at(self, image_size: tuple[int, int]) -> Tower:
        """See :meth:`TimmTower.only_own_size`."""
        return self.only_own_size(image_size)

    def on_grid(self, maps: Tensor, index: int) -> Tensor:
        """Windows back to the grid: merged, cut to its size and shifted back."""
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


class FastVitTower(_LastStageTower):
    """timm's FastVit with attention in its last stage. Its tokens are ``[B, d, rows, columns]``."""

    family = "timm-fastvit"

    def __init__(
        self,
        trunk: FastVit,
        adapter: nn.Module | None = None,
        *,
        image_size: tuple[int, int],
    ) -> None:
        """Wraps a trunk; see :class:`TimmTower`.

        Raises:
            UnsupportedModelError: the last stage has no attention, or the patches are not averaged.
        """
        _require_average(trunk)
        if not isinstance(trunk.stages[-1].blocks[0], AttentionBlock):
            raise UnsupportedModelError(
                "This FastViT has no attention in its last stage: there is nothing to explain."
            )
        super().__init__(trunk, adapter, "stages", trunk.final_conv, image_size)

    def at(self, image_size: tuple[int, int]) -> Tower:
        """The tower itself: nothing in it depends on the size."""
        del image_size
        return self

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        tokens: Tensor = self._last_stage.pos_emb(self._before_last_stage(pixels, "stem"))
        return tokens


def _require_average(trunk: Any) -> None:
    if trunk.global_pool != "avg":
        raise UnsupportedModelError(
            f"This model pools its patches by {trunk.global_pool!r}; LeGrad needs the average."
        )
