"""timm's DeiT with a distillation token: two tokens, each with a classifier of its own."""

from timm.models.deit import VisionTransformerDistilled

from legrad_engine.families.heads import RowsHead, ScoreHead, TokenHead, precise
from legrad_engine.families.registry import Family, register
from legrad_engine.families.scores import Score
from legrad_engine.families.timm_vit import TimmVisionTower


class DistilledTower(TimmVisionTower):
    """timm's VisionTransformerDistilled."""

    def _make_heads(self) -> dict[Score, ScoreHead]:
        if self._adapter is not None:
            return super()._make_heads()
        norm = precise(self._trunk.norm)
        return {
            "mean": TokenHead.pooling_first(slice(None), lambda pooled: norm(pooled).repeat(1, 2)),
            "cls": RowsHead(slice(0, 2), False, None, lambda rows: norm(rows).flatten(1)),
        }


register(
    Family(
        name="timm-vit-distilled",
        classes=(VisionTransformerDistilled,),
        build=lambda encoder: DistilledTower(encoder.trunk, encoder.adapter),
        timm_modules=("deit",),
    )
)
