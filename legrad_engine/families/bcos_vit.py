"""B-cos ViTs of the package ``bcos``: SimpleViT with B-cos units in the place of linear layers.

A B-cos unit computes ``|cos(x, w)| (w . x)`` with a unit vector w (Böhle et al., CVPR 2022, arXiv
2205.10268, equation 3, B = 2; ViTs in TPAMI 2024, arXiv 2306.10898). With the cosines, the
attention and the norms' deviations held constant, the whole model is linear in its input.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, TokenHead, at_least_float32, precise
from legrad_engine.families.registry import Family, register
from legrad_engine.families.scores import Score
from legrad_engine.families.timm_base import same_weights

_SIDE = 224
# The package adds it to the length of a unit's input.
_LEAST_LENGTH = 1e-12


class BcosViT(nn.Module):
    """Adapter that gives a B-cos SimpleViT the interface of a timm model.

    It makes the model's six channels of a picture itself.

    Attributes:
        trunk: the SimpleViT.
        logit_bias: the constant that the model adds to each logit.
        num_classes: number of its classes.
        num_features: length of its features, the input of the last B-cos unit.
    """

    pretrained_cfg: ClassVar[dict[str, Any]] = {
        "input_size": (3, _SIDE, _SIDE),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "interpolation": "bilinear",
    }

    def __init__(self, trunk: Any, logit_bias: float = 0.0) -> None:
        """Wrap a model.

        Args:
            trunk: ``bcos.models.vit.SimpleViT`` with B-cos units.
            logit_bias: the bias of the ``LogitLayer`` behind it.

        Raises:
            UnsupportedModelError: its last layer is no B-cos unit with B = 2 and without MaxOut.
        """
        super().__init__()
        unit = trunk.linear_head.linear
        if getattr(unit, "b", None) != 2 or unit.max_out != 1:
            raise UnsupportedModelError(
                "This model does not end in a B-cos unit with B = 2 and without MaxOut.",
                field="model",
            )
        self.trunk = trunk
        self.logit_bias = logit_bias
        self.num_classes: int = unit.out_features
        self.num_features: int = unit.in_features

    @property
    def class_weights(self) -> Tensor:
        """The unit vectors ``[classes, e]`` of the last B-cos unit."""
        weight: Tensor = self.trunk.linear_head.linear.linear.weight
        return F.normalize(weight.detach(), dim=-1)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Compute the output of the last block ``[B, N, d]`` of pixels ``[B, 3, H, W]``."""
        tokens: Tensor = self.trunk.transformer(embed(self.trunk, with_inverse(pixels)))
        return tokens

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute the features ``[B, e]``, or the logits ``[B, classes]``, of tokens."""
        head = self.trunk.linear_head
        features: Tensor = head.norm(tokens.mean(1))
        return features if pre_logits else head.linear(features) + self.logit_bias

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the logits ``[B, classes]`` of pixels ``[B, 3, H, W]`` from 0 to 1."""
        logits: Tensor = self.trunk(with_inverse(pixels)) + self.logit_bias
        return logits


def with_inverse(pixels: Tensor) -> Tensor:
    """Return ``[x, 1 - x]``, ``[B, 6, H, W]``: each colour has a direction of its own."""
    return torch.cat([pixels, 1 - pixels], 1)


def embed(trunk: Any, inputs: Tensor) -> Tensor:
    """Compute the input of the first block ``[B, N, d]`` of six channels ``[B, 6, H, W]``."""
    patches: Tensor = trunk.to_patch_embedding(inputs)
    positions: Tensor = trunk.positional_embedding(patches)
    return patches.flatten(1, 2) + positions


def unit_scale(outputs: Tensor, features: Tensor) -> Tensor:
    """Compute the dynamic factor ``|cos|`` of B-cos units.

    Args:
        outputs: ``[B, P]``, products of the features and unit vectors.
        features: ``[B, e]``.
    """
    length: Tensor = features.norm(dim=-1, keepdim=True)
    return outputs.abs() / (length + _LEAST_LENGTH)


class BcosTower(Tower):
    """Tower of a :class:`BcosViT`.

    A second set of modules, which shares the weights, is in the package's explanation mode for
    good: its outputs are the same, and its gradients are those of the linear map.
    """

    family = "bcos-vit"
    scores: tuple[Score, ...] = ("mean",)
    prefix_tokens = 0
    image_size = (_SIDE, _SIDE)

    def __init__(self, model: BcosViT) -> None:
        """Wrap a model."""
        trunk: Any = model.trunk
        self._trunk = trunk
        self._linear = same_weights(trunk)
        for module in self._linear.modules():
            if hasattr(module, "set_explanation_mode"):
                module.set_explanation_mode(True)
        self._blocks = tuple(trunk.transformer)
        self.depth = len(self._blocks)
        self.embedding_size = self.width = model.num_features
        # A stem of convolutions mixes neighbours.
        self.drops_patches = not hasattr(trunk.to_patch_embedding, "conv_stem")
        self._head = TokenHead.pooling_first(slice(None), precise(trunk.linear_head.norm))
        probe = next(trunk.parameters()).new_zeros(1, 6, _SIDE, _SIDE)
        with torch.no_grad():
            rows, columns = trunk.to_patch_embedding(probe).shape[1:3]
        self.patch_size = _SIDE // rows, _SIDE // columns

    def embed(self, pixels: Tensor) -> Tensor:
        """See :meth:`Tower.embed`."""
        return embed(self._trunk, with_inverse(pixels))

    def linear_features(self, inputs: Tensor) -> Tensor:
        """Compute features whose gradient is that of the model's linear map.

        Args:
            inputs: ``[B, 6, H, W]``, from :func:`with_inverse`.

        Returns:
            ``[B, e]``, in float32 at least.
        """
        tokens = self._linear.transformer(embed(self._linear, inputs))
        features: Tensor = self._linear.linear_head.norm(tokens.mean(1))
        return at_least_float32(features)

    def block(self, index: int) -> Any:
        """See :meth:`Tower.block`."""
        return self._blocks[index]

    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_block`."""
        return self.forward_from_norm(tokens, self.first_norm(index)(tokens), index)

    def first_norm(self, index: int) -> nn.Module:
        """See :meth:`Tower.first_norm`."""
        norm: nn.Module = self._blocks[index].attn.norm
        return norm

    def forward_from_norm(self, tokens: Tensor, normalized: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_from_norm`."""
        block = self._blocks[index]
        # The package multiplies by an explicit softmax; only fused attention can be observed.
        queries, keys, values = (
            each.unflatten(-1, (block.attn.heads, -1)).transpose(1, 2)
            for each in block.attn.to_qkv(normalized).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=block.attn.scale)
        tokens = tokens + block.attn.to_out(attended.transpose(1, 2).flatten(2))
        finished: Tensor = block.ff(tokens) + tokens
        return finished

    def score_head(self, score: Score) -> ScoreHead:
        """See :meth:`Tower.score_head`."""
        self.require_score(score, "B-cos ViTs average their tokens")
        return self._head

    def served_head(self) -> ScoreHead:
        """See :meth:`Tower.served_head`."""
        return self._head


register(
    Family(
        name=BcosTower.family,
        classes=(BcosViT,),
        build=lambda encoder: BcosTower(encoder.trunk),
    )
)
