"""timm's FastVit: convolutional stages, with attention in the last one."""

from timm.models.fastvit import AttentionBlock, FastVit
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.base import Tower
from legrad_engine.families.registry import Family, register
from legrad_engine.families.timm_stages import LastStageTower


class FastVitTower(LastStageTower):
    """timm's FastVit with attention in its last stage. Its tokens are ``[B, d, rows, columns]``."""

    family = "timm-fastvit"

    def __init__(
        self,
        trunk: FastVit,
        adapter: nn.Module | None = None,
        *,
        image_size: tuple[int, int],
    ) -> None:
        """Wrap a trunk; see :class:`LastStageTower`.

        Raises:
            UnsupportedModelError: the last stage has no attention, or the patches are not averaged.
        """
        if not isinstance(trunk.stages[-1].blocks[0], AttentionBlock):
            raise UnsupportedModelError(
                "This FastViT has no attention in its last stage: there is nothing to explain."
            )
        super().__init__(trunk, adapter, "stages", trunk.final_conv, image_size)

    def at(self, image_size: tuple[int, int]) -> Tower:
        """Return the tower itself: none of its parts depends on the input size."""
        del image_size
        return self

    def patches_of(self, tokens: Tensor) -> Tensor:
        """See :meth:`Tower.patches_of`."""
        return tokens.flatten(2).transpose(1, 2)

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        tokens: Tensor = self._last_stage.pos_emb(self._before_last_stage(pixels, "stem"))
        return tokens


register(
    Family(
        name=FastVitTower.family,
        classes=(FastVit,),
        build=lambda encoder: FastVitTower(
            encoder.trunk, encoder.adapter, image_size=encoder.image_size
        ),
        timm_modules=("fastvit",),
        plain_models="FastVit",
    )
)
