"""Attentional poolers: an attention that pools the tokens into the image's embedding.

LeGrad (arXiv 2404.03214) explains these models through the pooler's own attention: every block's
output goes through the pooler, and only the queries that make the embedding are counted.
"""

from abc import abstractmethod

import torch.nn.functional as F
from open_clip.transformer import AttentionalPooler
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from legrad_engine.families.attention import Attention, attention_of, run_with_attention
from legrad_engine.families.heads import Features, ScoreHead, at_least_float32, precise


class PoolerHead(ScoreHead):
    """Score head with an attention of its own.

    Its state is that attention's output ``[B, heads, queries, head_dim]``, for the queries that
    make the embedding.

    Attributes:
        prefix_keys: number of key tokens before the patches.
        output_projection: the map from the heads' outputs side by side to a pooled token.
    """

    own_attention = "pooler"
    prefix_keys: int
    output_projection: nn.Module

    @abstractmethod
    def attend(self, tokens: Tensor) -> Attention:
        """Compute the pooler's attention on a block's output ``[B, N, d]``."""

    def state(self, tokens: Tensor) -> Tensor:
        """Return the attention's output; the score depends on the tokens through it alone."""
        return self.attend(tokens).output

    @abstractmethod
    def features_of_values(self, values: Tensor) -> Tensor:
        """Compute features of value vectors, each as if the attention read that one alone.

        Args:
            values: ``[M, heads * head_dim]``, of keys with their heads merged.

        Returns:
            ``[M, e]``, not normalised, in float32 at least.
        """


class TimmPoolerHead(PoolerHead):
    """timm's AttentionPoolLatent, as in SigLIP and PE-Core, with the trunk's norm before it."""

    def __init__(
        self,
        pool: AttentionPoolLatent,
        norm: nn.Module,
        tail: Features,
        *,
        keys: slice,
        prefix: int,
    ) -> None:
        """Wrap a pooler.

        Args:
            pool: the pooler.
            norm: norm of every token before the pooler.
            tail: from pooled tokens ``[M, d]`` to features ``[M, e]``.
            keys: the tokens that the pooler reads.
            prefix: number of those tokens before the patches.
        """
        self.prefix_keys = prefix
        self.output_projection = pool.proj
        self._pool = pool
        self._after = precise(pool)
        self._norm = norm
        self._tail = tail
        self._keys = keys
        self._queries = slice(0, 1) if pool.pool == "token" else slice(None)
        self._latents = pool.latent_len

    def attend(self, tokens: Tensor) -> Attention:
        """See :meth:`PoolerHead.attend`."""
        attention = attention_of(lambda: self._pool(self._norm(tokens)[:, self._keys]))
        return attention.of_queries(self._queries)

    def features(self, state: Tensor) -> Tensor:
        """See :meth:`ScoreHead.features`."""
        output = at_least_float32(state)
        if output.shape[2] < self._latents:
            output = F.pad(output, (0, 0, 0, self._latents - output.shape[2]))
        # After its attention the pooler uses only the shape of its input: one zero token is enough.
        width = output.shape[1] * output.shape[3]
        stand_in = output.new_zeros(len(output), 1, width)
        return self._tail(run_with_attention(lambda: self._after(stand_in), output))

    def features_of_values(self, values: Tensor) -> Tensor:
        """See :meth:`PoolerHead.features_of_values`."""
        # Through the layers themselves: a whole pooler for each value would project its queries
        # and keys as well.
        after = self._after
        pooled = after.proj(at_least_float32(values))
        if after.mlp is not None:
            pooled = pooled + after.mlp(after.norm(pooled))
        return self._tail(pooled)


class OpenClipPoolerHead(PoolerHead):
    """open_clip's AttentionalPooler, as in CoCa."""

    prefix_keys = 1

    def __init__(self, pooler: AttentionalPooler, tail: Features) -> None:
        """Wrap a pooler whose first query makes the embedding.

        Args:
            pooler: the pooler.
            tail: from that query's pooled token ``[M, d]`` to features ``[M, e]``.
        """
        self._pooler = pooler
        self._tail = tail
        self.output_projection = precise(pooler.attn.out_proj)

    def attend(self, tokens: Tensor) -> Attention:
        """See :meth:`PoolerHead.attend`."""
        pooler, attention = self._pooler, self._pooler.attn
        width, heads = attention.embed_dim, attention.num_heads
        tokens = pooler.ln_k(tokens)
        if attention.in_proj_weight is None:
            weights = (
                attention.q_proj_weight,
                attention.k_proj_weight,
                attention.v_proj_weight,
            )
        else:
            weights = attention.in_proj_weight.split(width)
        biases = attention.in_proj_bias.split(width)
        query = pooler.ln_q(pooler.query[:1]).expand(len(tokens), -1, -1)
        query, key, value = (
            F.linear(inputs, weight, bias)
            .view(*inputs.shape[:2], heads, width // heads)
            .transpose(1, 2)
            for inputs, weight, bias in zip((query, tokens, tokens), weights, biases, strict=True)
        )
        output = F.scaled_dot_product_attention(query, key, value)
        return Attention(value, output, query, key, query.shape[-1] ** -0.5)

    def features(self, state: Tensor) -> Tensor:
        """See :meth:`ScoreHead.features`."""
        merged = at_least_float32(state).transpose(1, 2).flatten(2)
        return self._tail(self.output_projection(merged)[:, 0])

    def features_of_values(self, values: Tensor) -> Tensor:
        """See :meth:`PoolerHead.features_of_values`."""
        return self._tail(self.output_projection(at_least_float32(values)))
