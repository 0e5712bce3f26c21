"""timm's Eva: EVA, EVA02, PE-Core and DINOv3, with rotary positions where the model has them."""

import copy

import torch
from timm.models.eva import Eva
from torch import Tensor

from legrad_engine.families.registry import Family, register
from legrad_engine.families.timm_vit import TimmVisionTower


class EvaTower(TimmVisionTower):
    """timm's Eva."""

    family = "timm-eva"

    @property
    def _pools_prefix(self) -> bool:
        return True

    @torch.no_grad()
    def _prepare(self) -> None:
        super()._prepare()
        trunk = self._trunk
        # Blocks have their tables of rotary positions already. Some models would make them anew for
        # each picture, on the host.
        self._embedding = copy.copy(trunk)
        self._embedding._modules = {**trunk._modules, "rope": None}
        if trunk.rope is None:
            return
        pixels = next(trunk.parameters()).new_zeros(1, trunk.in_chans, *trunk.patch_embed.img_size)
        _, rope = trunk._pos_embed(trunk.patch_embed(pixels))
        self._block_arguments = [
            {"rope": rope[index] if trunk.rope_mixed else rope} for index in range(self.depth)
        ]

    def forward_kept(self, tokens: Tensor, kept: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_kept`: the rotary positions are those of the kept patches."""
        rope = self._block_arguments[index].get("rope")
        if rope is None:
            return self.forward_block(tokens, index)
        # A table of all patches, [N, d], or one for each head, [heads, N, d].
        of_kept = rope[..., kept, :]
        of_kept = of_kept.unsqueeze(1) if rope.ndim == 2 else of_kept.transpose(0, 1)
        output: Tensor = self.block(index)(tokens, rope=of_kept)
        return output

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        trunk = self._embedding
        tokens, _ = trunk._pos_embed(trunk.patch_embed(pixels))
        normalized: Tensor = trunk.norm_pre(tokens)
        return normalized


register(
    Family(
        name=EvaTower.family,
        classes=(Eva,),
        build=lambda encoder: EvaTower(encoder.trunk, encoder.adapter),
        timm_modules=("eva",),
        plain_models="Eva (EVA, DINOv3, PE)",
    )
)
