"""timm's hierarchical towers: stages of blocks with a smaller grid each.

Only blocks of the last stage are explained: the score head reads that stage's tokens and no others,
so the score of an earlier block is not defined.
"""

from typing import Any

import torch
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.heads import FeatureMapHead, ScoreHead, at_least_float32, precise
from legrad_engine.families.scores import Score
from legrad_engine.families.timm_base import TimmTower


class LastStageTower(TimmTower):
    """Tower of stages whose last one is explained."""

    scores: tuple[Score, ...] = ("mean",)
    prefix_tokens = 0
    explained_share = 0.15
    block_kind = "blocks of the last stage"

    def __init__(
        self,
        trunk: Any,
        adapter: nn.Module | None,
        stages: str,
        before_pooling: nn.Module,
        image_size: tuple[int, int],
    ) -> None:
        """Wrap a trunk; see :class:`TimmTower`.

        Args:
            trunk: a timm model.
            adapter: see :class:`TimmTower`.
            stages: name of the trunk's attribute that lists the stages.
            before_pooling: module between the last stage and the average over patches.
            image_size: (height, width) in pixels that the weights were trained at.

        Raises:
            UnsupportedModelError: the trunk does not average its patches.
        """
        if trunk.global_pool != "avg":
            raise UnsupportedModelError(
                f"This model pools its patches by {trunk.global_pool!r}; LeGrad needs the average."
            )
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
        """Run the trunk up to the blocks of its last stage, from its module named ``stem``."""
        tokens: Tensor = getattr(self._trunk, stem)(pixels)
        for stage in getattr(self._trunk, self._stages)[:-1]:
            tokens = stage(tokens)
        downsampled: Tensor = self._last_stage.downsample(tokens)
        return downsampled

    def block(self, index: int) -> Any:
        """See :meth:`TimmTower.block`."""
        return self._last_stage.blocks[index]

    def score_head(self, score: Score) -> ScoreHead:
        """See :meth:`Tower.score_head`."""
        self.require_score(score, "this model averages its patches")
        return self._head

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        return self._head
