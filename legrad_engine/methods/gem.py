"""GEM: self-self attention of queries, keys and values in the last blocks, on a second path."""

import torch.nn.functional as F
from torch import Tensor

from legrad_engine.families.attention import Attention
from legrad_engine.families.heads import at_least_float32
from legrad_engine.methods.dual_path import DualPathMethod
from legrad_engine.methods.registry import register
from legrad_engine.methods.self_attention import attend_to_alike


class GEM(DualPathMethod):
    """GEM with one iteration, as in the package ``gem-torch`` (depth 7: the last 6 blocks)."""

    name = "gem"
    title = "GEM"
    description = (
        "The cosine of each patch's own features with the target, without a gradient.\n"
        "A second path through the last 6 blocks: tokens attend to tokens with similar queries,\n"
        "similar keys and similar values, without MLPs. Signed."
    )
    source = "Bousselham et al., CVPR 2024, arXiv 2312.00878"
    trace_share = 0.45

    def attend(self, attention: Attention, inputs: Tensor) -> Tensor:
        """See :meth:`DualPathMethod.attend`."""
        lengths = at_least_float32(inputs).norm(dim=-1).mean(-1)
        sharpness = (lengths * attention.scale).to(inputs.dtype).view(-1, 1, 1, 1)
        paths = []
        for vectors in (attention.values, attention.keys, attention.queries):
            unit = F.normalize(vectors, dim=-1)
            unit = F.normalize(attend_to_alike(unit, unit, sharpness), dim=-1)
            paths.append(attend_to_alike(unit, attention.values, sharpness))
        return (paths[0] + paths[1] + paths[2]) / 3


register(GEM())
