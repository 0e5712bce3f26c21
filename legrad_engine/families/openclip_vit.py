"""open_clip's own VisionTransformer: class-token or average pooling."""

import threading
from collections import OrderedDict

import torch
import torch.nn.functional as F
from open_clip.transformer import (
    CustomResidualAttentionBlock,
    LayerScale,
    QuickGELU,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError, UnsupportedModelError
from legrad_engine.families.base import Attention, KnownBlock, Score, ScoreHead, Tower

_ELEMENTWISE_ACTIVATIONS = (nn.GELU, nn.ReLU, nn.SiLU, QuickGELU)
_POSITION_GRIDS_KEPT = 16


class OpenClipVisionTower(Tower):
    """open_clip's VisionTransformer without an attentional pooler."""

    family = "openclip-vit"
    prefix_tokens = 1

    def __init__(self, visual: VisionTransformer) -> None:
        """Wraps the tower without changing it.

        Raises:
            UnsupportedModelError: the tower pools or attends in a way this family does not know.
        """
        if visual.attn_pool is not None:
            raise UnsupportedModelError(
                "This model pools its tokens with an attentional pooler, which is not supported "
                "yet; choose a model that pools by class token or average."
            )
        if visual.pool_type not in ("tok", "avg"):
            raise UnsupportedModelError(
                f"This model pools its tokens by {visual.pool_type!r}; LeGrad needs 'tok' or 'avg'."
            )
        if getattr(visual.transformer.resblocks[0].attn, "logit_scale", None) is not None:
            raise UnsupportedModelError(
                "This model uses scaled cosine attention, which open_clip itself cannot run."
            )
        self._visual = visual
        self._blocks = visual.transformer.resblocks
        self.depth = len(self._blocks)
        self.patch_size = tuple(visual.patch_size)
        self.image_size = tuple(visual.image_size)
        self.scores: tuple[Score, ...] = ("mean", "cls") if visual.pool_type == "tok" else ("mean",)
        self._positions: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._positions_lock = threading.Lock()

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
        """Positional embedding ``[N, d]`` for a patch grid, resampled as open_clip does at load."""
        own = self._visual.positional_embedding
        if grid == tuple(self._visual.grid_size):
            return own  # type: ignore[no-any-return]
        with self._positions_lock:
            if grid in self._positions:
                self._positions.move_to_end(grid)
                return self._positions[grid]
        prefix, patches = own[: self.prefix_tokens], own[self.prefix_tokens :]
        rows, columns = self._visual.grid_size
        # Half precision has no bicubic kernel on every device.
        image = patches.float() if patches.dtype in (torch.float16, torch.bfloat16) else patches
        # In channels-last memory PyTorch's antialiased resampling to one column is wrong.
        image = image.reshape(1, rows, columns, -1).permute(0, 3, 1, 2).contiguous()
        image = F.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
        patches = image.permute(0, 2, 3, 1).flatten(0, 2).to(own.dtype)
        positions = torch.cat([prefix, patches])
        with self._positions_lock:
            self._positions[grid] = positions
            while len(self._positions) > _POSITION_GRIDS_KEPT:
                self._positions.popitem(last=False)
        return positions

    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_block`."""
        return self._blocks[index](tokens)  # type: ignore[no-any-return]

    def attend(self, tokens: Tensor, index: int) -> Attention:
        """See :meth:`Tower.attend`."""
        block = self._blocks[index]
        attention = block.attn
        batch, count, width = tokens.shape
        projected = F.linear(
            block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias
        ).view(batch, count, 3, attention.num_heads, width // attention.num_heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        if isinstance(block, CustomResidualAttentionBlock):
            query, key = attention.ln_q(query), attention.ln_k(key)
        return Attention(value, F.scaled_dot_product_attention(query, key, value))

    def finish_block(self, tokens: Tensor, output: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.finish_block`."""
        block = self._blocks[index]
        attention = block.attn
        custom = isinstance(block, CustomResidualAttentionBlock)
        if custom and attention.head_scale is not None:
            output = output * attention.head_scale
        merged = output.transpose(1, 2).flatten(2)
        if custom:
            merged = attention.ln_inner(merged)
        merged = attention.out_proj(merged)
        if custom:
            merged = block.ln_attn(merged)
        tokens = tokens + block.ls_1(merged)
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))  # type: ignore[no-any-return]

    def known_block(self, index: int) -> KnownBlock | None:
        """See :meth:`Tower.known_block`."""
        block = self._blocks[index]
        if not (
            isinstance(block, ResidualAttentionBlock)
            and isinstance(block.mlp.gelu, _ELEMENTWISE_ACTIVATIONS)
        ):
            return None
        return KnownBlock(
            output_projection=block.attn.out_proj,
            attention_scale=block.ls_1.gamma if isinstance(block.ls_1, LayerScale) else None,
            norm=block.ln_2,
            expand=block.mlp.c_fc,
            activation=block.mlp.gelu,
            contract=block.mlp.c_proj,
            mlp_scale=block.ls_2.gamma if isinstance(block.ls_2, LayerScale) else None,
        )

    def score_head(self, score: Score) -> ScoreHead:
        """The paper's mean over all tokens, or the class token.

        Average-pooled towers are explained through their own pooling: the mean of the patches, with
        the final norm where the model has it. Their class token is never read by the model.
        """
        if score not in self.scores:
            raise InvalidOptionError(
                f"score={score!r} is not available: this model averages its patches, so its class "
                "token means nothing. Use score='mean', which is the logit it serves.",
                field="score",
            )
        if self._visual.pool_type == "avg" or score == "cls":
            return self.served_head()
        return self._head(slice(None), norm_before_pooling=False)

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        if self._visual.pool_type == "avg":
            return self._head(
                slice(1, None), norm_before_pooling=not self._visual.final_ln_after_pool
            )
        # One row: norm and pooling commute.
        return self._head(slice(0, 1), norm_before_pooling=False)

    def _head(self, rows: slice, *, norm_before_pooling: bool) -> ScoreHead:
        return ScoreHead(rows, self._visual.ln_post, self._visual.proj, norm_before_pooling)
