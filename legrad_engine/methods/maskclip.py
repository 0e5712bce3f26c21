"""MaskCLIP: the last block's attention is left out, and every token keeps its own value."""

from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.dense_features import DenseMethod, run_blocks, run_both
from legrad_engine.methods.registry import register


class MaskCLIP(DenseMethod):
    """MaskCLIP. With an attentional pooler, the pooler's is the attention that is left out."""

    name = "maskclip"
    title = "MaskCLIP"
    description = (
        "The cosine of each patch's own features with the target, without a gradient.\n"
        "In the last attention (a pooler's, where the model has one) each patch keeps its value.\n"
        "Signed: negative where a patch points away from the target."
    )
    source = "Zhou et al., ECCV 2022, arXiv 2112.01071"
    takes_layers = "last"
    trace_share = 0.5

    def run(self, tower: Tower, tokens: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """See :meth:`DenseMethod.run`."""
        del layers
        if isinstance(tower.served_head(), PoolerHead):
            tokens = run_blocks(tower, tokens, tower.depth)
            return tokens, tokens
        last = tower.depth - 1
        tokens = run_blocks(tower, tokens, last)
        return run_both(tower, tokens, last, lambda attention: attention.values)


register(MaskCLIP())
