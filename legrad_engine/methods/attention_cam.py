"""Attention-CAM: GradCAM whose channels are the heads of the last block's attention."""

from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead
from legrad_engine.methods.registry import register
from legrad_engine.methods.rows import Reading, RowMethod


class AttentionCam(RowMethod):
    """``ReLU(mean_h w_h A[h, 0, j])`` with ``w_h = mean_j d s / d A[h, 0, j]``."""

    name = "attention-cam"
    title = "Attention-CAM"
    description = (
        "The last block's attention from the class token to each patch.\n"
        "Each head is weighted by the mean gradient of the score with respect to it.\n"
        "Only what speaks for the target is kept."
    )
    source = "GradCAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391), applied to attention"

    def patch_maps(
        self, tower: Tower, head: ScoreHead, reading: Reading, gradient: Tensor
    ) -> Tensor:
        """See :meth:`RowMethod.patch_maps`."""
        del tower, head
        # d s / d A is G V^T, so its mean over patches needs only the mean of V.
        mean_value = reading.values.mean(2).unsqueeze(1)
        head_weights = (gradient.mean(3) * mean_value).sum(-1)
        weights = reading.mean_weights()
        maps: Tensor = head_weights @ weights / weights.shape[1]
        return maps.relu_()


register(AttentionCam())
