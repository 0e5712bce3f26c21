"""timm's vision transformers: ViT, DeiT, DINO, SigLIP, ViTamin, EVA, PE-Core."""

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import AttentionPoolLatent
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import (
    FeatureMapHead,
    Score,
    ScoreHead,
    TokenHead,
    at_least_float32,
    precise,
    target_gradient,
)
from legrad_engine.families.pooler import PoolerHead, TimmPoolerHead
from legrad_engine.families.timm_base import TimmTower


@dataclass(frozen=True, slots=True)
class ClassAndDistillationHead(TokenHead):
    """DeiT's two tokens, each with a classifier of its own: their features side by side."""

    def features(self, state: Tensor) -> Tensor:
        """See :meth:`ScoreHead.features`."""
        return self.tail(at_least_float32(state)).flatten(1)

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`TokenHead.gradient`."""
        return target_gradient(self.features, state, targets)


class TimmVisionTower(TimmTower):
    """timm's VisionTransformer, VisionTransformerRelPos and Eva."""

    def __init__(
        self,
        trunk: VisionTransformer | VisionTransformerRelPos | Eva,
        adapter: nn.Module | None = None,
    ) -> None:
        """Wraps a trunk; see :class:`TimmTower`.

        Raises:
            UnsupportedModelError: the trunk pools in a way this family does not know.
        """
        super().__init__(trunk, adapter)
        self.family = _family(trunk)
        self.depth = len(trunk.blocks)
        self.image_size = tuple(trunk.patch_embed.img_size)
        self.patch_size = tuple(trunk.patch_embed.feat_ratio(as_scalar=False))
        self.prefix_tokens = trunk.num_prefix_tokens
        self.width = trunk.embed_dim
        self._heads = self._make_heads()
        self.scores: tuple[Score, ...] = tuple(self._heads)
        self._block_arguments: list[dict[str, Tensor | None]] = []
        self._prepare()
        parameter = next(trunk.parameters())
        probe = parameter.new_zeros(1, self.prefix_tokens + 1, trunk.embed_dim)
        with torch.no_grad():
            head = self.served_head()
            self.embedding_size = head.features(head.state(probe)).shape[-1]
            if not isinstance(head, PoolerHead):
                # Blocks that attend in another way are refused now, not with the first picture.
                pixels = parameter.new_zeros(1, trunk.in_chans, *self.image_size)
                self.run_block(self.embed(pixels), self.depth - 1)

    def _make_heads(self) -> dict[Score, ScoreHead]:
        trunk = self._trunk
        if isinstance(trunk, VisionTransformerDistilled) and self._adapter is None:
            norm = precise(trunk.norm)
            return {
                "mean": TokenHead.pooling_first(
                    slice(None), lambda pooled: norm(pooled).repeat(1, 2)
                ),
                "cls": ClassAndDistillationHead(slice(0, 2), False, None, norm),
            }
        after = self._after_pooling
        if trunk.global_pool == "token":
            # One row: norm and pooling commute.
            tail = nn.Sequential(precise(trunk.norm), *after)
            return {
                "mean": TokenHead.pooling_first(slice(None), tail),
                "cls": TokenHead.pooling_first(slice(0, 1), tail),
            }
        if trunk.global_pool == "avg":
            return {"mean": self._average_head(after)}
        if trunk.global_pool == "map" and isinstance(trunk.attn_pool, AttentionPoolLatent):
            whole = isinstance(trunk, Eva) or trunk.pool_include_prefix
            keys = slice(None) if whole else slice(self.prefix_tokens, None)
            prefix = self.prefix_tokens if whole else 0
            return {
                "pooler": TimmPoolerHead(
                    trunk.attn_pool,
                    trunk.norm,
                    after,
                    keys=keys,
                    prefix=prefix,
                )
            }
        raise UnsupportedModelError(
            f"This model pools its tokens by {trunk.global_pool!r}; LeGrad knows the class token, "
            "the average and attentional poolers."
        )

    def _average_head(self, after: nn.Sequential) -> ScoreHead:
        trunk = self._trunk
        whole = getattr(trunk, "pool_include_prefix", False)
        rows = slice(None) if whole else slice(self.prefix_tokens, None)
        if isinstance(trunk.norm, nn.Identity):
            return TokenHead.pooling_first(rows, after)
        if isinstance(trunk.norm, nn.LayerNorm):
            return TokenHead.norm_first(rows, trunk.norm, after)
        norm = precise(trunk.norm)
        return FeatureMapHead(lambda tokens: after(norm(tokens)[:, rows].mean(1)))

    @torch.no_grad()
    def _prepare(self) -> None:
        """What blocks take beside their tokens: rotary or relative positions."""
        trunk = self._trunk
        self._block_arguments = [{}] * self.depth
        if isinstance(trunk, Eva) and trunk.rope is not None:
            patch = next(trunk.parameters())
            pixels = patch.new_zeros(1, trunk.in_chans, *trunk.patch_embed.img_size)
            _, rope = trunk._pos_embed(trunk.patch_embed(pixels))
            self._block_arguments = [
                {"rope": rope[index] if trunk.rope_mixed else rope} for index in range(self.depth)
            ]
        if isinstance(trunk, VisionTransformerRelPos) and trunk.shared_rel_pos is not None:
            bias = trunk.shared_rel_pos.get_bias()
            self._block_arguments = [{"shared_rel_pos": bias}] * self.depth

    def at(self, image_size: tuple[int, int]) -> Tower:
        """See :meth:`Tower.at`."""
        if isinstance(self._trunk, VisionTransformerRelPos):
            return self.only_own_size(image_size)
        return super().at(image_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        trunk = self._trunk
        tokens: Tensor = trunk.patch_embed(pixels)
        if isinstance(trunk, VisionTransformerRelPos):
            if trunk.cls_token is not None:
                tokens = torch.cat([trunk.cls_token.expand(len(tokens), -1, -1), tokens], 1)
            return tokens
        if isinstance(trunk, Eva):
            tokens, _ = trunk._pos_embed(tokens)
        else:
            tokens = trunk._pos_embed(tokens)
        normalized: Tensor = trunk.norm_pre(tokens)
        return normalized

    def block(self, index: int) -> Any:
        """See :meth:`TimmTower.block`."""
        return self._trunk.blocks[index]

    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_block`."""
        output: Tensor = self.block(index)(tokens, **self._block_arguments[index])
        return output

    def score_head(self, score: Score) -> ScoreHead:
        """See :meth:`Tower.score_head`."""
        self.require_score(score, f"this model pools its tokens by {self._trunk.global_pool!r}")
        return self._heads[score]

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        return self._heads[self.scores[-1]]


def _family(trunk: nn.Module) -> str:
    names: dict[type[nn.Module], str] = {
        Eva: "timm-eva",
        VisionTransformerRelPos: "timm-vit-relpos",
    }
    return next((name for kind, name in names.items() if isinstance(trunk, kind)), "timm-vit")
