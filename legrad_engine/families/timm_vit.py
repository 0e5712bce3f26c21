"""timm's VisionTransformer: ViT, DeiT, DINO, SigLIP, ViTamin."""

from typing import Any

import torch
from timm.layers import AttentionPoolLatent, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.attention import run_with_attention
from legrad_engine.families.heads import FeatureMapHead, ScoreHead, TokenHead, precise
from legrad_engine.families.pooler import TimmPoolerHead
from legrad_engine.families.registry import Family, register
from legrad_engine.families.scores import Score
from legrad_engine.families.timm_base import TimmTower


class TimmVisionTower(TimmTower):
    """timm's VisionTransformer, and the base of the towers of similar classes."""

    family = "timm-vit"
    # Whether no table over all pairs of tokens holds positions.
    _positions_in_tokens = True

    def __init__(self, trunk: Any, adapter: nn.Module | None = None) -> None:
        """Wrap a trunk; see :class:`TimmTower`.

        Raises:
            UnsupportedModelError: the trunk pools or attends in a way that is not supported.
        """
        super().__init__(trunk, adapter)
        self.depth = len(trunk.blocks)
        self.image_size = tuple(trunk.patch_embed.img_size)
        self.patch_size = tuple(trunk.patch_embed.feat_ratio(as_scalar=False))
        self.prefix_tokens = trunk.num_prefix_tokens
        self.width = trunk.embed_dim
        self.drops_patches = (
            self._positions_in_tokens
            # A stem of convolutions mixes neighbours.
            and isinstance(trunk.patch_embed, PatchEmbed)
            and getattr(getattr(trunk, "attn_pool", None), "pos_embed", None) is None
        )
        self._heads = self._make_heads()
        self.scores: tuple[Score, ...] = tuple(self._heads)
        self._block_arguments: list[dict[str, Tensor | None]] = []
        self._prepare()
        parameter = next(trunk.parameters())
        probe = parameter.new_zeros(1, self.prefix_tokens + 1, trunk.embed_dim)
        with torch.no_grad():
            head = self.served_head()
            self.embedding_size = head.features(head.state(probe)).shape[-1]
            if head.own_attention is None:
                # Blocks whose attention cannot be observed are refused now, not with the first
                # picture.
                pixels = parameter.new_zeros(1, trunk.in_chans, *self.image_size)
                self.run_block(self.embed(pixels), self.depth - 1)

    def _make_heads(self) -> dict[Score, ScoreHead]:
        trunk = self._trunk
        after = self._after_pooling
        if trunk.global_pool == "token":
            # The class token is one row: norm and pooling commute.
            tail = nn.Sequential(precise(trunk.norm), *after)
            return {
                "mean": TokenHead.pooling_first(slice(None), tail),
                "cls": TokenHead.pooling_first(slice(0, 1), tail),
            }
        if trunk.global_pool == "avg":
            return {"mean": self._average_head(after)}
        if trunk.global_pool == "map" and isinstance(trunk.attn_pool, AttentionPoolLatent):
            whole = self._pools_prefix
            return {
                "pooler": TimmPoolerHead(
                    trunk.attn_pool,
                    trunk.norm,
                    after,
                    keys=slice(None) if whole else slice(self.prefix_tokens, None),
                    prefix=self.prefix_tokens if whole else 0,
                )
            }
        raise UnsupportedModelError(
            f"This model pools its tokens by {trunk.global_pool!r}; LeGrad supports the class "
            "token, the average and attentional poolers."
        )

    @property
    def _pools_prefix(self) -> bool:
        """Whether an attentional pooler also reads the tokens before the patches."""
        reads: bool = self._trunk.pool_include_prefix
        return reads

    def _average_head(self, after: nn.Sequential) -> ScoreHead:
        trunk = self._trunk
        whole = getattr(trunk, "pool_include_prefix", False)
        rows = slice(None) if whole else slice(self.prefix_tokens, None)
        if isinstance(trunk.norm, nn.Identity):
            return TokenHead.pooling_first(rows, after)
        if isinstance(trunk.norm, nn.LayerNorm):
            return TokenHead.norm_first(rows, trunk.norm, after)
        norm = precise(trunk.norm)
        return FeatureMapHead(
            lambda tokens: after(norm(tokens)[:, rows].mean(1)),
            rows,
            tokenwise=lambda tokens: after(norm(tokens)),
        )

    def _prepare(self) -> None:
        """Compute the blocks' arguments beside the tokens, such as rotary positions."""
        self._block_arguments = [{}] * self.depth

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        trunk = self._trunk
        normalized: Tensor = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels)))
        return normalized

    def block(self, index: int) -> Any:
        """See :meth:`TimmTower.block`."""
        return self._trunk.blocks[index]

    def run(self, block: Any, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`TimmTower.run`."""
        output: Tensor = block(tokens, **self._block_arguments[index])
        return output

    def key_and_value_weights(self, index: int) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Tower.key_and_value_weights`."""
        attention = self.block(index).attn
        projection = getattr(attention, "qkv", None)
        if not (
            isinstance(projection, nn.Linear)
            and projection.out_features == 3 * projection.in_features
            and isinstance(getattr(attention, "k_norm", None) or nn.Identity(), nn.Identity)
            and self._block_arguments[index].get("rope") is None
        ):
            return None
        _, keys, values = projection.weight.chunk(3)
        return keys, values

    def finish_block(self, tokens: Tensor, output: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.finish_block`."""
        # The arguments change nothing but queries and keys, and are made for all tokens.
        return run_with_attention(lambda: self.block(index)(tokens), output)

    def score_head(self, score: Score) -> ScoreHead:
        """See :meth:`Tower.score_head`."""
        self.require_score(score, f"this model pools its tokens by {self._trunk.global_pool!r}")
        return self._heads[score]

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        return self._heads[self.scores[-1]]


register(
    Family(
        name=TimmVisionTower.family,
        classes=(VisionTransformer,),
        build=lambda encoder: TimmVisionTower(encoder.trunk, encoder.adapter),
        timm_modules=("deit", "vision_transformer", "vision_transformer_hybrid", "vitamin"),
        plain_models=(
            "VisionTransformer (ViT, DeiT with or without distillation token, DINO, DINOv2 with "
            "registers)"
        ),
    )
)
