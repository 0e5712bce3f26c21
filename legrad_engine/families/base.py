"""What LeGrad needs to know of an image tower, whatever its architecture.

A family is one file that wraps an architecture's own modules in a :class:`Tower`. The tower never
changes the modules: it calls them, or reads their weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Score = Literal["mean", "cls"]
SCORES: tuple[Score, ...] = get_args(Score)


def layer_norm_backward(gradient: Tensor, normalized: Tensor, inverse_std: Tensor) -> Tensor:
    """Gradient of a scalar with respect to the input of an affine-free layer norm.

    Args:
        gradient: ``[..., d]``, with respect to the normalised values.
        normalized: ``[..., d]``, the normalised values.
        inverse_std: ``[..., 1]``, one over the standard deviation (epsilon included).

    Returns:
        ``[..., d]``.
    """
    centred = gradient - gradient.mean(-1, keepdim=True)
    along = (gradient * normalized).mean(-1, keepdim=True)
    return (centred - normalized * along) * inverse_std


def standardize(values: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Layer norm without its affine part.

    Returns:
        The normalised values ``[..., d]`` and one over the standard deviation ``[..., 1]``.
    """
    normalized, _, inverse_std = torch.native_layer_norm(
        values, values.shape[-1:], None, None, epsilon
    )
    return normalized, inverse_std.to(values.dtype)


@dataclass(frozen=True, slots=True)
class Attention:
    """What one block's attention read and what it produced.

    Attributes:
        values: ``[B, heads, N, head_dim]``, the value of every key token.
        output: ``[B, heads, N, head_dim]``, the attention-weighted values of every query token.
    """

    values: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True)
class KnownBlock:
    """The parts of a pre-norm block whose derivative has a closed form.

    ``X = x + attention_scale * output_projection(O)`` and
    ``Z = X + mlp_scale * contract(activation(expand(norm(X))))``.
    """

    output_projection: nn.Linear
    attention_scale: Tensor | None
    norm: nn.LayerNorm
    expand: nn.Linear
    activation: nn.Module
    contract: nn.Linear
    mlp_scale: Tensor | None


@dataclass(frozen=True, slots=True)
class ScoreHead:
    """How tokens become one vector in the joint space: pool, normalise, project.

    Attributes:
        rows: the token rows that are pooled by their mean.
        norm: the tower's final layer norm.
        projection: ``[d, e]`` into the joint space, or None where there is none.
        norm_before_pooling: whether the norm is applied to each token or to the pooled vector.
    """

    rows: slice
    norm: nn.LayerNorm
    projection: Tensor | None
    norm_before_pooling: bool

    def state(self, tokens: Tensor) -> Tensor:
        """The part of the tokens that decides the score.

        Args:
            tokens: ``[B, N, d]``, a block's output.

        Returns:
            ``[B, 1, d]`` where pooling comes first, ``[B, rows, d]`` where the norm comes first.
        """
        rows = tokens[:, self.rows]
        return rows if self.norm_before_pooling else rows.mean(1, keepdim=True)

    def features(self, state: Tensor) -> Tensor:
        """Vectors ``[B, e]`` of states ``[B, S, d]``, not normalised. Differentiable."""
        pooled: Tensor = self.norm(state).mean(1)
        return pooled if self.projection is None else pooled @ self.projection

    def embed(self, state: Tensor) -> Tensor:
        """Unit vectors ``[B, e]`` of states ``[B, S, d]``. Differentiable."""
        return F.normalize(self.features(state), dim=-1)

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """Gradient of every target's score with respect to the state.

        Args:
            state: ``[B, S, d]``, from :meth:`state`.
            targets: ``[B, P, e]`` unit vectors.

        Returns:
            ``[B, P, S, d]``, at least float32: half precision would lose the small values.
        """
        state = at_least_float32(state)
        targets = at_least_float32(targets)
        weight = at_least_float32(self.norm.weight)
        normalized, inverse_std = standardize(state, self.norm.eps)
        features = (normalized * weight + at_least_float32(self.norm.bias)).mean(1)
        projection = None if self.projection is None else at_least_float32(self.projection)
        if projection is not None:
            features = features @ projection
        length = features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        direction = features / length
        scores = targets @ direction.unsqueeze(-1)
        gradient = (targets - scores * direction.unsqueeze(1)) / length.unsqueeze(1)
        if projection is not None:
            gradient = gradient @ projection.T
        gradient = (gradient * weight / state.shape[1]).unsqueeze(2)
        return layer_norm_backward(gradient, normalized.unsqueeze(1), inverse_std.unsqueeze(1))


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or unchanged where it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class Tower(ABC):
    """An image tower as LeGrad sees it: patch embedding, blocks, score heads.

    Attributes:
        family: name of the architecture family.
        depth: number of blocks.
        patch_size: height and width of a patch in pixels.
        image_size: height and width in pixels that the weights were made for.
        prefix_tokens: tokens before the patches (class token, registers).
        scores: the scores that this tower can explain.
    """

    family: str
    depth: int
    patch_size: tuple[int, int]
    image_size: tuple[int, int]
    prefix_tokens: int
    scores: tuple[Score, ...]

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens ``[B, N, d]`` that enter the first block, for pixels ``[B, 3, H, W]``.

        Height and width are any multiples of the patch size.
        """

    @abstractmethod
    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """Output ``[B, N, d]`` of one block, by the model's own code."""

    @abstractmethod
    def attend(self, tokens: Tensor, index: int) -> Attention:
        """The attention of one block on its input tokens ``[B, N, d]``."""

    @abstractmethod
    def finish_block(self, tokens: Tensor, output: Tensor, index: int) -> Tensor:
        """The rest of the block after its attention. Differentiable in ``output``.

        Args:
            tokens: ``[B, N, d]``, the block's input.
            output: ``[B, heads, N, head_dim]``, the attention's output.
            index: which block.

        Returns:
            ``[B, N, d]``, the block's output.
        """

    @abstractmethod
    def known_block(self, index: int) -> KnownBlock | None:
        """The block's parts where its derivative has a closed form, else None."""

    @abstractmethod
    def score_head(self, score: Score) -> ScoreHead:
        """The head that makes the given score.

        Raises:
            InvalidOptionError: the tower has no such score.
        """

    @abstractmethod
    def served_head(self) -> ScoreHead:
        """The head that makes the similarity which the model itself serves."""
