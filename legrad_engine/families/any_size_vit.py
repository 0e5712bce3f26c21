"""VisionTransformers that resample their positions for every input: DINOv2 and SigLIP 2 (NaFlex).

Their weights have positions on one grid, but are used with inputs of other sizes. The way of
resampling is a part of the model, which differs from that of timm and open_clip.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import RowsHead, ScoreHead, TokenHead, at_least_float32, precise
from legrad_engine.families.registry import Family, register
from legrad_engine.families.scores import Score
from legrad_engine.families.timm_vit import TimmVisionTower


class AnySizeVisionTransformer(VisionTransformer):  # type: ignore[misc] # timm has no types
    """timm's VisionTransformer, for inputs of any whole number of patches.

    Attributes:
        position_grid: (rows, columns) of the patches that ``pos_embed`` has positions for; the
            tokens before the patches have none.
    """

    def __init__(
        self,
        *,
        input_size: tuple[int, int],
        mode: Literal["bilinear", "bicubic"],
        antialias: bool,
        **settings: Any,
    ) -> None:
        """Build the model with random weights.

        Args:
            input_size: (height, width) in pixels of the usual input.
            mode: interpolation of the positions.
            antialias: whether positions are smoothed where the new grid is coarser.
            settings: arguments of timm's VisionTransformer; ``img_size`` is the size that the
                positions are for.
        """
        super().__init__(dynamic_img_size=True, no_embed_class=True, **settings)
        self.position_grid: tuple[int, int] = tuple(self.patch_embed.grid_size)
        self.patch_embed.set_input_size(img_size=input_size)
        self._mode = mode
        self._antialias = antialias

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions to patches ``[B, rows, columns, d]`` and put the other tokens before."""
        patches = x.flatten(1, 2) + self._positions((x.shape[1], x.shape[2]))
        prefix = [
            token.expand(len(x), -1, -1)
            for token in (self.cls_token, self.reg_token)
            if token is not None
        ]
        return torch.cat([*prefix, patches], 1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        own: Tensor = self.pos_embed
        if grid == self.position_grid:
            return own
        image = at_least_float32(own).reshape(1, *self.position_grid, -1).permute(0, 3, 1, 2)
        image = F.interpolate(
            # PyTorch's antialiased resampling to one column is wrong in channels-last memory.
            image.contiguous(),
            size=grid,
            mode=self._mode,
            antialias=self._antialias,
            align_corners=False,
        )
        return image.flatten(2).transpose(1, 2).to(own.dtype)


class ClassAndPatchesVisionTransformer(AnySizeVisionTransformer):
    """Its features are the class token and the average of the patches, as in DINOv2's heads."""

    def __init__(self, *, num_classes: int, **settings: Any) -> None:
        """Build the model with random weights; see :class:`AnySizeVisionTransformer`."""
        super().__init__(num_classes=0, **settings)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 2 * self.embed_dim
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:  # noqa: ARG002 # timm's
        """Pool normalised tokens ``[B, N, d]`` into ``[B, 2 d]``."""
        return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(1)], -1)


class AnySizeTower(TimmVisionTower):
    """Tower of an :class:`AnySizeVisionTransformer`."""

    family = "any-size-vit"

    def at(self, image_size: tuple[int, int]) -> Tower:  # noqa: ARG002 # no code depends on it
        """Return the tower itself."""
        return self


class ClassAndPatchesTower(AnySizeTower):
    """Tower of a :class:`ClassAndPatchesVisionTransformer`."""

    def _make_heads(self) -> dict[Score, ScoreHead]:
        norm, prefix = precise(self._trunk.norm), self.prefix_tokens

        def features(tokens: Tensor) -> Tensor:
            normalized = norm(tokens)
            return torch.cat([normalized[:, 0], normalized[:, prefix:].mean(1)], -1)

        return {
            "mean": TokenHead.pooling_first(slice(None), lambda pooled: norm(pooled).repeat(1, 2)),
            "cls": RowsHead(slice(None), False, None, features),
        }


register(
    Family(
        name=AnySizeTower.family,
        classes=(AnySizeVisionTransformer,),
        build=lambda encoder: AnySizeTower(encoder.trunk, encoder.adapter),
    )
)
register(
    Family(
        name="any-size-vit-class-and-patches",
        classes=(ClassAndPatchesVisionTransformer,),
        build=lambda encoder: ClassAndPatchesTower(encoder.trunk, encoder.adapter),
    )
)
