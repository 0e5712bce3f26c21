"""CLIP Surgery: value-value attention on a second path, and features common to prompts removed."""

from torch import Tensor

from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, at_least_float32
from legrad_engine.methods.base import ModelParts
from legrad_engine.methods.dense_features import PatchEmbeddings
from legrad_engine.methods.dual_path import DualPathMethod
from legrad_engine.methods.registry import register
from legrad_engine.methods.self_attention import attend_to_alike

# The temperature of the weights of prompts in the paper.
_SHARPNESS = 2.0


class CLIPSurgery(DualPathMethod):
    """CLIP Surgery: architecture surgery, and feature surgery where there are several targets.

    Feature surgery removes the part of the map that all targets of a request have in common, each
    target weighted by its softmax with the image. One target alone has nothing to be compared with:
    its map is the cosine of architecture surgery.
    """

    name = "clip-surgery"
    title = "CLIP Surgery"
    description = (
        "The cosine of each patch's own features with the target, after value-value attention\n"
        "in the last 6 blocks. With several targets, the mean of their weighted maps is taken off\n"
        "each (feature surgery), so a map depends on the request's other targets. Signed."
    )
    source = "Li et al., 2023, arXiv 2304.05653"
    compares_targets = True
    trace_share = 0.2

    def attend(self, attention: Attention, inputs: Tensor) -> Tensor:
        """See :meth:`DualPathMethod.attend`."""
        del inputs
        return attend_to_alike(attention.values, attention.values, attention.scale)

    def maps(
        self,
        tower: Tower,
        blocks: tuple[PatchEmbeddings, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        cosines = super().maps(tower, blocks, layers, head, targets, parts)
        count = targets.shape[1]
        if count == 1:
            return cosines
        similarities = at_least_float32(targets) @ blocks[0].image.unsqueeze(-1)
        weighted = (similarities * _SHARPNESS).softmax(1) * count * cosines
        return weighted - weighted.mean(1, keepdim=True)


register(CLIPSurgery())
