"""SCLIP: in the last block, tokens attend to tokens with similar queries and similar keys."""

from torch import Tensor

from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.methods.dense_features import DenseMethod, run_blocks, run_both
from legrad_engine.methods.registry import register
from legrad_engine.methods.self_attention import attend_to_alike


class SCLIP(DenseMethod):
    """SCLIP.

    A bias by relative position belongs to the product of a query and a key, and is left out of the
    products of queries with queries and of keys with keys.
    """

    name = "sclip"
    title = "SCLIP"
    description = (
        "The cosine of each patch's own features with the target, without a gradient.\n"
        "In the last block, patches attend to patches with similar queries and similar keys.\n"
        "Signed: negative where a patch points away from the target."
    )
    source = "Wang et al., ECCV 2024, arXiv 2312.01597"
    takes_layers = "last"
    trace_share = 0.7

    def run(self, tower: Tower, tokens: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """See :meth:`DenseMethod.run`."""
        del layers
        last = tower.depth - 1
        tokens = run_blocks(tower, tokens, last)
        return run_both(tower, tokens, last, _to_similar_queries_and_keys)


def _to_similar_queries_and_keys(attention: Attention) -> Tensor:
    values, scale = attention.values, attention.scale
    by_queries = attend_to_alike(attention.queries, values, scale)
    return by_queries + attend_to_alike(attention.keys, values, scale)


register(SCLIP())
