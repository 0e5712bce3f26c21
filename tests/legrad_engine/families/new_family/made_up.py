"""A new architecture and its family in one file, as legrad_engine/families would hold it.

The architecture has one block: every patch attends to every other, without a residual.
"""

import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, TokenHead, precise
from legrad_engine.families.registry import Family, Refusal, register
from legrad_engine.families.scores import Score

SIDE, PATCH, WIDTH, HEADS = 32, 8, 16, 2


class MadeUp(nn.Module):
    """Patch embedding, one attention, average over patches, projection."""

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Embed the patches."""
        embedded: Tensor = self.patch_embed(pixels)
        return embedded.flatten(2).transpose(1, 2)

    def block(self, tokens: Tensor) -> Tensor:
        """Attend."""
        parts = self.attention(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Compute the tokens."""
        return self.block(self.tokens(pixels))

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the tokens; there is no classifier."""
        del pre_logits
        pooled: Tensor = self.projection(tokens.mean(1))
        return pooled

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the features."""
        return self.forward_head(self.forward_features(pixels))


def made_up_tiny(pretrained: bool = False, **options: object) -> MadeUp:
    """Build the only variant."""
    del pretrained, options
    return MadeUp()


register_model(made_up_tiny)


class MadeUpTower(Tower):
    """The made-up architecture."""

    family = "made-up"
    attention_kind = "made-up attention"
    block_kind = "block"
    depth = 1
    patch_size = (PATCH, PATCH)
    image_size = (SIDE, SIDE)
    prefix_tokens = 0
    scores: tuple[Score, ...] = ("mean",)
    embedding_size = WIDTH

    def __init__(self, trunk: MadeUp) -> None:
        self._trunk = trunk
        self._head = TokenHead.pooling_first(slice(None), precise(trunk.projection))

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        return self._trunk.tokens(pixels)

    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_block`."""
        del index
        return self._trunk.block(tokens)

    def score_head(self, score: Score) -> ScoreHead:
        """See :meth:`Tower.score_head`."""
        self.require_score(score, "it is made up")
        return self._head

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        return self._head


register(
    Family(
        name=MadeUpTower.family,
        classes=(MadeUp,),
        build=lambda encoder: MadeUpTower(encoder.trunk),
        timm_modules=("made_up",),
        plain_models="MadeUp (nothing else)",
    )
)
register(
    Refusal(
        name="timm-mixer",
        reason="its image tower is timm's {name}, a mixer: it has no attention",
        timm_modules=("mlp_mixer",),
    )
)
