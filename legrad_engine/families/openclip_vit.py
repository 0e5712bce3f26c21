"""open_clip's own VisionTransformer, pooled by class token, average or attentional pooler."""

from typing import Any

import torch
from open_clip.transformer import CustomResidualAttentionBlock, LayerScale, VisionTransformer
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.affine import AffineChain
from legrad_engine.families.attention import Attention
from legrad_engine.families.base import AttentionBranch, KnownBlock, Tower
from legrad_engine.families.heads import (
    NormAndProjection,
    ScoreHead,
    TokenHead,
    at_least_float32,
    precise,
)
from legrad_engine.families.openclip_blocks import (
    attend,
    finish,
    has_scaled_cosine_attention,
    known_parts,
)
from legrad_engine.families.pooler import OpenClipPoolerHead
from legrad_engine.families.positions import resample_positions
from legrad_engine.families.registry import Family, register
from legrad_engine.families.scores import Score
from legrad_engine.recently_used import RecentlyUsed

_POSITION_GRIDS_KEPT = 16


class OpenClipVisionTower(Tower):
    """open_clip's VisionTransformer."""

    family = "openclip-vit"
    prefix_tokens = 1
    drops_patches = True

    def __init__(self, visual: VisionTransformer) -> None:
        """Wrap the tower without changing it.

        Raises:
            UnsupportedModelError: the tower pools or attends in a way that is not supported.
        """
        if visual.attn_pool is None and visual.pool_type not in ("tok", "avg"):
            raise UnsupportedModelError(
                f"This model pools its tokens by {visual.pool_type!r}; LeGrad needs 'tok' or 'avg'."
            )
        if has_scaled_cosine_attention(visual.transformer.resblocks[0]):
            raise UnsupportedModelError(
                "This model uses scaled cosine attention, which open_clip itself cannot run."
            )
        self._visual = visual
        self._blocks = visual.transformer.resblocks
        projection = None if visual.proj is None else at_least_float32(visual.proj.detach())
        self._project = NormAndProjection(None, projection)
        self._finish = NormAndProjection(precise(visual.ln_post), projection)
        self.depth = len(self._blocks)
        self.patch_size = tuple(visual.patch_size)
        self.image_size = tuple(visual.image_size)
        self.embedding_size = visual.output_dim
        self.width = visual.conv1.out_channels
        self._heads: dict[Score, ScoreHead] = self._make_heads()
        self.scores: tuple[Score, ...] = tuple(self._heads)
        self._positions = RecentlyUsed[tuple[int, int], Tensor](_POSITION_GRIDS_KEPT)

    def _make_heads(self) -> dict[Score, ScoreHead]:
        visual = self._visual
        if visual.attn_pool is not None:
            return {"pooler": self._pooler_head()}
        if visual.pool_type == "avg":
            # The model's own pooling, so the explained score is its own logit.
            patches = slice(1, None)
            if visual.final_ln_after_pool:
                return {"mean": TokenHead.pooling_first(patches, self._finish)}
            return {"mean": TokenHead.norm_first(patches, visual.ln_post, self._project)}
        return {
            "mean": TokenHead.pooling_first(slice(None), self._finish),
            # The class token is one row: norm and pooling commute.
            "cls": TokenHead.pooling_first(slice(0, 1), self._finish),
        }

    def _pooler_head(self) -> ScoreHead:
        visual = self._visual
        if visual.attn_pool_contrastive is None and visual.pool_type == "tok":
            return OpenClipPoolerHead(visual.attn_pool, self._finish)
        raise UnsupportedModelError(
            "This model's embedding is not the first query of one attentional pooler; open_clip "
            "itself calls the other arrangements untested."
        )

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        visual = self._visual
        patches = visual.conv1(pixels)
        grid = (patches.shape[-2], patches.shape[-1])
        patches = patches.flatten(2).transpose(1, 2)
        cls = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([cls, patches], dim=1) + self._positional_embedding(grid)
        return visual.ln_pre(tokens)  # type: ignore[no-any-return]

    def _positional_embedding(self, grid: tuple[int, int]) -> Tensor:
        """Return the positional embedding ``[N, d]`` for a patch grid."""
        if grid == tuple(self._visual.grid_size):
            return self._visual.positional_embedding  # type: ignore[no-any-return]
        return self._positions.get_or_make(grid, self._resampled_positions)

    def _resampled_positions(self, grid: tuple[int, int]) -> Tensor:
        return resample_positions(
            self._visual.positional_embedding,
            tuple(self._visual.grid_size),
            grid,
            self.prefix_tokens,
        )

    def block(self, index: int) -> Any:
        """See :meth:`Tower.block`."""
        return self._blocks[index]

    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_block`."""
        return self._blocks[index](tokens)  # type: ignore[no-any-return]

    def attend(self, tokens: Tensor, index: int) -> Attention:
        """See :meth:`Tower.attend`."""
        return self._attend(self._blocks[index].ln_1(tokens), index)

    def _attend(self, normalized: Tensor, index: int) -> Attention:
        return attend(self._blocks[index], normalized)

    def run_block(self, tokens: Tensor, index: int) -> tuple[Attention, Tensor]:
        """See :meth:`Tower.run_block`."""
        attention = self.attend(tokens, index)
        return attention, self.finish_block(tokens, attention.output, index)

    def finish_block(self, tokens: Tensor, output: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.finish_block`."""
        return finish(self._blocks[index], tokens, output)

    def known_block(self, index: int) -> KnownBlock | None:
        """See :meth:`Tower.known_block`."""
        return known_parts(self._blocks[index])

    def attention_branch(self, index: int) -> AttentionBranch | None:
        """See :meth:`Tower.attention_branch`."""
        block = self._blocks[index]
        attention = block.attn
        layers = [attention.out_proj]
        if isinstance(block, CustomResidualAttentionBlock):
            head_scale = attention.head_scale
            if head_scale is not None:
                head_scale = head_scale.flatten().repeat_interleave(attention.head_dim)
            layers = [head_scale, attention.ln_inner, attention.out_proj, block.ln_attn]
        scale = block.ls_1.gamma if isinstance(block.ls_1, LayerScale) else None
        after = AffineChain.of(*layers, scale)
        return None if after is None else AttentionBranch(block.ln_1, after)

    def first_norm(self, index: int) -> nn.Module:
        """See :meth:`Tower.first_norm`."""
        norm: nn.Module = self._blocks[index].ln_1
        return norm

    def forward_from_norm(self, tokens: Tensor, normalized: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_from_norm`."""
        return self.finish_block(tokens, self._attend(normalized, index).output, index)

    def key_and_value_weights(self, index: int) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Tower.key_and_value_weights`."""
        if isinstance(self._blocks[index], CustomResidualAttentionBlock):
            return None
        _, keys, values = self._blocks[index].attn.in_proj_weight.chunk(3)
        return keys, values

    def output_projection(self, index: int) -> nn.Module:
        """See :meth:`Tower.output_projection`."""
        projection: nn.Linear = self._blocks[index].attn.out_proj
        return projection

    def score_head(self, score: Score) -> ScoreHead:
        """Return the head of the paper's mean over all tokens, the class token or the pooler.

        In average-pooled towers ``"mean"`` is their own pooling: the mean of the patches, with the
        final norm before or after it, as in the model.

        Raises:
            InvalidOptionError: see :meth:`Tower.score_head`.
        """
        self.require_score(
            score,
            "this model has an attentional pooler, whose own attention is explained"
            if "pooler" in self.scores
            else "this model averages its patches and does not use its class token"
            if score == "cls"
            else "this model has no attentional pooler",
        )
        return self._heads[score]

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        return self._heads[self.scores[-1]]


register(
    Family(
        name=OpenClipVisionTower.family,
        classes=(VisionTransformer,),
        build=lambda encoder: OpenClipVisionTower(encoder.trunk),
    )
)
