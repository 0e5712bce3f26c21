"""Chains of affine layers, which carry directions from their output back to their input.

A layer norm is affine once its statistics are held at those of one input. Then the output of a
chain is a linear map of the input plus a constant, and so are its parts: the contribution of any
summand of the input to the output's product with a direction is the product of that summand with
the direction carried back.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.families.heads import NormAndProjection, at_least_float32, standardize


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer.

    Attributes:
        weight: ``[out, in]``.
        bias: ``[out]``, or None.
    """

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Scaling:
    """A factor for each channel.

    Attributes:
        factors: ``[d]``.
    """

    factors: Tensor


Part = Linear | Scaling | nn.LayerNorm


@dataclass(frozen=True, slots=True)
class AffineChain:
    """Layers that run one after the other, each on every token alone.

    Attributes:
        parts: the layers; every layer norm has a weight.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *layers: object) -> Self | None:
        """Make the chain of layers, in order; None if one of them is not affine.

        Args:
            layers: modules, :class:`NormAndProjection`, or the factors of a scaling; None stands
                for no layer.
        """
        parts: list[Part] = []
        for layer in layers:
            found = _parts_of(layer)
            if found is None:
                return None
            parts += found
        return cls(tuple(parts))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run the layers on ``[..., d]``, in the inputs' dtype."""
        for part in self.parts:
            if isinstance(part, Linear):
                inputs = F.linear(inputs, part.weight, part.bias)
            elif isinstance(part, Scaling):
                inputs = inputs * part.factors
            else:
                inputs = part(inputs)
        return inputs

    def freeze(self, inputs: Tensor) -> "FrozenChain":
        """Run the layers and hold the statistics of their norms.

        Args:
            inputs: ``[..., d]``.
        """
        values = at_least_float32(inputs)
        zero = torch.zeros_like(values)
        gain = values.new_ones(*values.shape[:-1], 1)
        for part in self.parts:
            if isinstance(part, nn.LayerNorm):
                normalized, inverse_std = standardize(values, part.eps)
                gain = gain * inverse_std
                centred = (zero - zero.mean(-1, keepdim=True)) * inverse_std
                values, zero = (_affine(part, each) for each in (normalized, centred))
            elif isinstance(part, Linear):
                weight = at_least_float32(part.weight)
                bias = None if part.bias is None else at_least_float32(part.bias)
                values, zero = (F.linear(each, weight, bias) for each in (values, zero))
            else:
                factors = at_least_float32(part.factors)
                values, zero = values * factors, zero * factors
        return FrozenChain(values, zero, gain)

    def carry_back(self, directions: Tensor) -> Tensor:
        """Carry directions of the output back to the input, without the norms' gain.

        Args:
            directions: ``[..., d_out]``, at least float32.

        Returns:
            ``[..., d_in]``. Times :attr:`FrozenChain.gain`, its product with an input is the
            output's product with the direction, less that of :attr:`FrozenChain.constant`.
        """
        for part in reversed(self.parts):
            if isinstance(part, Linear):
                directions = directions @ at_least_float32(part.weight)
            elif isinstance(part, Scaling):
                directions = directions * at_least_float32(part.factors)
            else:
                directions = directions * at_least_float32(part.weight)
                directions = directions - directions.mean(-1, keepdim=True)
        return directions


@dataclass(frozen=True, slots=True)
class FrozenChain:
    """A chain with the statistics of one input for each token.

    Attributes:
        output: ``[..., d_out]``, at least float32.
        constant: ``[..., d_out]``, the part of the output that does not come from the input.
        gain: ``[..., 1]``, the product of the norms' inverse deviations.
    """

    output: Tensor
    constant: Tensor
    gain: Tensor


def _parts_of(layer: object) -> list[Part] | None:
    if layer is None or isinstance(layer, (nn.Identity, nn.Dropout)):
        return []
    if isinstance(layer, nn.Linear):
        return [Linear(layer.weight, layer.bias)]
    if isinstance(layer, Tensor):
        return [Scaling(layer)]
    if isinstance(layer, nn.LayerNorm):
        return None if layer.weight is None else [layer]
    if isinstance(layer, NormAndProjection):
        projection = layer.projection
        norm = _parts_of(layer.norm)
        if norm is None or projection is None:
            return norm
        return [*norm, Linear(projection.T, None)]
    if isinstance(layer, nn.Sequential):
        found = [_parts_of(each) for each in layer]
        known = [parts for parts in found if parts is not None]
        if len(known) < len(found):
            return None
        return [part for parts in known for part in parts]
    return None


def _affine(norm: nn.LayerNorm, normalized: Tensor) -> Tensor:
    scaled = normalized * at_least_float32(norm.weight)
    return scaled if norm.bias is None else scaled + at_least_float32(norm.bias)
