"""timm's DeiT with a distillation token: two tokens, each with a classifier of its own."""

from dataclasses import dataclass

from timm.models.deit import VisionTransformerDistilled
from torch import Tensor

from legrad_engine.families.heads import (
    ScoreHead,
    TokenHead,
    at_least_float32,
    precise,
    target_gradient,
)
from legrad_engine.families.registry import Family, register
from legrad_engine.families.scores import Score
from legrad_engine.families.timm_vit import TimmVisionTower


@dataclass(frozen=True, slots=True)
class ClassAndDistillationHead(TokenHead):
    """Head that concatenates the features of the class token and of the distillation token."""

    def features(self, state: Tensor) -> Tensor:
        """See :meth:`ScoreHead.features`."""
        return self.tail(at_least_float32(state)).flatten(1)

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`TokenHead.gradient`."""
        return target_gradient(self.features, state, targets)


class DistilledTower(TimmVisionTower):
    """timm's VisionTransformerDistilled."""

    def _make_heads(self) -> dict[Score, ScoreHead]:
        if self._adapter is not None:
            return super()._make_heads()
        norm = precise(self._trunk.norm)
        return {
            "mean": TokenHead.pooling_first(slice(None), lambda pooled: norm(pooled).repeat(1, 2)),
            "cls": ClassAndDistillationHead(slice(0, 2), False, None, norm),
        }


register(
    Family(
        name="timm-vit-distilled",
        classes=(VisionTransformerDistilled,),
        build=lambda encoder: DistilledTower(encoder.trunk, encoder.adapter),
        timm_modules=("deit",),
    )
)
