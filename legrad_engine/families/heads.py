"""Score heads: from a tower's tokens to one vector in the joint space, and back by gradient."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = Callable[[Tensor], Tensor]
_Module = TypeVar("_Module", bound=nn.Module)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a tensor to float32, unless it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def precise(module: _Module) -> _Module:
    """Return the module itself, or a float32 copy where its weights are of half precision.

    A head is small and runs once for each image and target, and its rounding error is in every map.
    """
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters())
    return copy.deepcopy(module).float() if half else module


def target_gradient(
    features: Features, inputs: Tensor, targets: Tensor, *, scale: float = 1.0
) -> Tensor:
    """Compute the gradient of every target's cosine with respect to the inputs of the features.

    Args:
        features: from ``[M, ...]`` to ``[M, e]``, in float32 at least.
        inputs: ``[B, ...]``, one for each image.
        targets: ``[B, P, e]`` unit vectors.
        scale: multiplies the result.

    Returns:
        ``[B, P, ...]``, at least float32.
    """
    count = targets.shape[1]
    leaf = at_least_float32(inputs.detach()).repeat_interleave(count, 0)
    with torch.enable_grad():
        leaf.requires_grad_()
        cosines = F.normalize(features(leaf), dim=-1) * at_least_float32(targets).flatten(0, 1)
        (gradient,) = torch.autograd.grad(cosines.sum() * scale, leaf)
    return gradient.view(-1, count, *inputs.shape[1:])


def layer_norm_backward(gradient: Tensor, normalized: Tensor, inverse_std: Tensor) -> Tensor:
    """Compute the gradient of a scalar with respect to the input of an affine-free layer norm.

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
    """Apply a layer norm without its affine part.

    Returns:
        The normalised values ``[..., d]`` and one over the standard deviation ``[..., 1]``.
    """
    normalized, _, inverse_std = torch.native_layer_norm(
        values, values.shape[-1:], None, None, epsilon
    )
    return normalized, inverse_std.to(values.dtype)


@dataclass(frozen=True, slots=True)
class NormAndProjection:
    """Optional layer norm and projection, with a gradient that needs no autograd.

    Attributes:
        norm: in float32 at least; None for no norm.
        projection: ``[d, e]``, in float32 at least; None for no projection.
    """

    norm: nn.LayerNorm | None
    projection: Tensor | None

    def __call__(self, pooled: Tensor) -> Tensor:
        """Compute features ``[M, e]`` of pooled tokens ``[M, d]``. Differentiable."""
        normalized: Tensor = pooled if self.norm is None else self.norm(pooled)
        return normalized if self.projection is None else normalized @ self.projection

    def gradient(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """Compute :func:`target_gradient` of this module in closed form.

        Args:
            pooled: ``[B, d]``, at least float32.
            targets: ``[B, P, e]`` unit vectors.

        Returns:
            ``[B, P, d]``.
        """
        targets = at_least_float32(targets)
        features = self(pooled)
        length: Tensor = features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        direction = features / length
        cosines = targets @ direction.unsqueeze(-1)
        gradient: Tensor = (targets - cosines * direction.unsqueeze(1)) / length.unsqueeze(1)
        if self.projection is not None:
            gradient = gradient @ self.projection.T
        if self.norm is None:
            return gradient
        normalized, inverse_std = standardize(pooled, self.norm.eps)
        return layer_norm_backward(
            gradient * self.norm.weight, normalized.unsqueeze(1), inverse_std.unsqueeze(1)
        )


class ScoreHead(ABC):
    """Map from a block's output to features in the joint space.

    The closed form (:mod:`legrad_engine.legrad.closed_form`) needs a :class:`TokenHead`; the
    general form takes any head.

    Attributes:
        own_attention: name of the head's own attention, where that is the explained one; None where
            the attention of the blocks is explained.
    """

    own_attention: ClassVar[str | None] = None

    @abstractmethod
    def state(self, tokens: Tensor) -> Tensor:
        """Return the part of a block's output that decides the score."""

    @abstractmethod
    def features(self, state: Tensor) -> Tensor:
        """Compute features ``[B, e]`` of a state, not normalised, in float32 at least.

        Differentiable in ``state``.
        """


@dataclass(frozen=True, slots=True)
class TokenHead(ScoreHead):
    """Head that reads some rows of ``[B, N, d]`` tokens.

    Attributes:
        rows: the token rows that are read.
        averaged: whether the rows are averaged before anything else, so that all of them have the
            same gradient.
        token_norm: the layer norm applied to each row before the average; None for no norm.
        tail: from the pooled rows ``[M, d]`` to features ``[M, e]``.
    """

    rows: slice
    averaged: bool
    token_norm: nn.LayerNorm | None
    tail: Features

    @classmethod
    def pooling_first(cls, rows: slice, tail: Features) -> "TokenHead":
        """Make a head that averages the rows, then applies the tail."""
        return cls(rows, True, None, tail)

    @classmethod
    def norm_first(cls, rows: slice, norm: nn.LayerNorm, tail: Features) -> "TokenHead":
        """Make a head that normalises each row, then averages, then applies the tail."""
        return cls(rows, False, precise(norm), tail)

    def state(self, tokens: Tensor) -> Tensor:
        """Return ``[B, 1, d]`` where the rows are averaged first, else ``[B, rows, d]``."""
        rows = tokens[:, self.rows]
        return rows.mean(1, keepdim=True) if self.averaged else rows

    def features(self, state: Tensor) -> Tensor:
        """See :meth:`ScoreHead.features`."""
        state = at_least_float32(state)
        if self.token_norm is not None:
            state = self.token_norm(state)
        return self.tail(state.mean(1))

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradient of every target's score with respect to the state.

        Args:
            state: ``[B, S, d]``, from :meth:`state`.
            targets: ``[B, P, e]`` unit vectors.

        Returns:
            ``[B, P, S, d]``, at least float32: half precision would lose the small values.
        """
        state = at_least_float32(state)
        norm = self.token_norm
        if norm is None:
            return self._tail_gradient(state.mean(1), targets).unsqueeze(2) / state.shape[1]
        pooled = norm(state).mean(1)
        gradient = self._tail_gradient(pooled, targets) * norm.weight / state.shape[1]
        normalized, inverse_std = standardize(state, norm.eps)
        return layer_norm_backward(
            gradient.unsqueeze(2), normalized.unsqueeze(1), inverse_std.unsqueeze(1)
        )

    def _tail_gradient(self, pooled: Tensor, targets: Tensor) -> Tensor:
        if isinstance(self.tail, NormAndProjection):
            return self.tail.gradient(pooled, targets)
        return target_gradient(self.tail, pooled, targets)


@dataclass(frozen=True, slots=True)
class RowsHead(TokenHead):
    """Head whose tail takes the rows ``[M, rows, d]`` themselves, not their average."""

    def features(self, state: Tensor) -> Tensor:
        """See :meth:`ScoreHead.features`."""
        return self.tail(at_least_float32(state))

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`TokenHead.gradient`."""
        return target_gradient(self.features, state, targets)


@dataclass(frozen=True, slots=True)
class FeatureMapHead(ScoreHead):
    """Head that reads the whole output of the last block, of any shape.

    Attributes:
        head: from a block's output to features ``[B, e]``, in float32 at least.
        rows: the token rows that it averages, if the output is ``[B, N, d]``; None for another.
        tokenwise: the same as ``head`` from tokens ``[M, d]``, each as if it was the only one; None
            where the head does not treat every token alike.
    """

    head: Features
    rows: slice | None = None
    tokenwise: Features | None = None

    def state(self, tokens: Tensor) -> Tensor:
        """Return the block's output itself."""
        return tokens

    def features(self, state: Tensor) -> Tensor:
        """See :meth:`ScoreHead.features`."""
        return self.head(at_least_float32(state))
