"""timm's Beit: BEiT and BEiT v2, with a bias by relative position in every attention."""

import torch
from timm.models.beit import Beit
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.registry import Family, register
from legrad_engine.families.timm_vit import TimmVisionTower


class BeitTower(TimmVisionTower):
    """timm's Beit."""

    family = "timm-beit"
    _positions_in_tokens = False

    @torch.no_grad()
    def _prepare(self) -> None:
        super()._prepare()
        if self._trunk.rel_pos_bias is not None:
            bias = self._trunk.rel_pos_bias()
            self._block_arguments = [{"shared_rel_pos_bias": bias}] * self.depth

    def at(self, image_size: tuple[int, int]) -> Tower:
        """See :meth:`TimmTower.only_own_size`."""
        return self.only_own_size(image_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        trunk = self._trunk
        patches: Tensor = trunk.patch_embed(pixels)
        tokens = torch.cat([trunk.cls_token.expand(len(patches), -1, -1), patches], 1)
        return tokens if trunk.pos_embed is None else tokens + trunk.pos_embed


register(
    Family(
        name=BeitTower.family,
        classes=(Beit,),
        build=lambda encoder: BeitTower(encoder.trunk, encoder.adapter),
        timm_modules=("beit",),
        plain_models="Beit (BEiT, BEiT v2)",
    )
)
