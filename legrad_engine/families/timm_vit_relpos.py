"""timm's VisionTransformerRelPos: a bias by relative position in every attention."""

import torch
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.registry import Family, register
from legrad_engine.families.timm_vit import TimmVisionTower


class RelativePositionTower(TimmVisionTower):
    """timm's VisionTransformerRelPos."""

    family = "timm-vit-relpos"
    _positions_in_tokens = False

    @torch.no_grad()
    def _prepare(self) -> None:
        super()._prepare()
        if self._trunk.shared_rel_pos is not None:
            bias = self._trunk.shared_rel_pos.get_bias()
            self._block_arguments = [{"shared_rel_pos": bias}] * self.depth

    def at(self, image_size: tuple[int, int]) -> Tower:
        """See :meth:`TimmTower.only_own_size`."""
        return self.only_own_size(image_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        trunk = self._trunk
        tokens: Tensor = trunk.patch_embed(pixels)
        if trunk.cls_token is not None:
            tokens = torch.cat([trunk.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return tokens


register(
    Family(
        name=RelativePositionTower.family,
        classes=(VisionTransformerRelPos,),
        build=lambda encoder: RelativePositionTower(encoder.trunk, encoder.adapter),
        timm_modules=("vision_transformer_relpos",),
        plain_models="VisionTransformerRelPos",
    )
)
