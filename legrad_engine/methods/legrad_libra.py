"""LeGrad with LibraGrad's rules in the walk back from the score to the attention.

Source: LibraGrad (arXiv 2411.16760). A gradient that prunes or exaggerates some paths is biased.
Two rules balance it: an activation ``x Phi(x)`` counts as the factor ``Phi(x)``, which is held
constant, and a layer norm divides by a constant deviation. Its mean is linear and stays.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, TokenHead, target_gradient
from legrad_engine.families.scores import Score
from legrad_engine.layers import DEFAULT_LAYERS
from legrad_engine.legrad.closed_form import (
    BackwardRules,
    ClosedFormTrace,
    activation_derivative,
    attribute_block,
)
from legrad_engine.legrad.route import route_of, trace_blocks
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.registry import register

_GATED = (F.gelu, F.silu)


def _gate(activation: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Compute Phi(x) of an activation ``x Phi(x)``. At 0 it is the derivative, Phi(0)."""
    at_zero = activation_derivative(activation, hidden.new_zeros(1))
    return torch.where(hidden == 0, at_zero, activation(hidden) / hidden)


class _ConstantFactors(TorchFunctionMode):
    """Applies the rules to the functions that a head calls, in this thread alone."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is F.layer_norm:
            return _layer_norm(*args, **named)
        if func in _GATED:
            hidden: Tensor = args[0]
            return hidden * _gate(lambda inputs: func(inputs, **named), hidden.detach())
        return func(*args, **named)


def _layer_norm(
    values: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    del normalized_shape
    deviation = (values.detach().var(-1, correction=0, keepdim=True) + eps).sqrt()
    normalized = (values - values.mean(-1, keepdim=True)) / deviation
    if weight is not None:
        normalized = normalized * weight
    return normalized if bias is None else normalized + bias


def _at_head(head: TokenHead, state: Tensor, targets: Tensor) -> Tensor:
    with _ConstantFactors():
        return target_gradient(head.features, state, targets)


_RULES = BackwardRules(_at_head, _gate, through_deviation=False)


class LegradLibra(Method[ClosedFormTrace]):
    """LeGrad with LibraGrad's rules."""

    name = "legrad-libra"
    title = "LeGrad with LibraGrad's rules"
    description = (
        "LeGrad, with two rules in the backward pass that balance the gradient:\n"
        "activations count as constant factors, and norms divide by a constant deviation.\n"
        "An experiment at the cost of LeGrad; takes any number of blocks."
    )
    source = "Mehri et al., CVPR 2025, arXiv 2411.16760, on Bousselham et al., ICCV 2025"
    default_layers = DEFAULT_LAYERS
    rectified = True
    target_share = 0.42

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        if route_of(tower) == "closed form":
            return None
        return "it needs blocks of attention and MLP whose derivative has a closed form"

    def score(self, tower: Tower, asked: Score | None) -> Score:
        """See :meth:`Method.score`: any score of the tower."""
        score = tower.scores[0] if asked is None else asked
        tower.score_head(score)
        return score

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[ClosedFormTrace, ...], Tensor]:
        """See :meth:`Method.trace`."""
        blocks, features = trace_blocks(tower, tokens, layers, head)
        return tuple(each for each in blocks if isinstance(each, ClosedFormTrace)), features

    def maps(
        self,
        tower: Tower,
        blocks: tuple[ClosedFormTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        if not isinstance(head, TokenHead):
            raise InvalidOptionError("The trace was made by another model.", field="trace")
        maps = (
            attribute_block(parts.folded(index), block, head, targets, parts.product, _RULES)
            for index, block in zip(layers, blocks, strict=True)
        )
        return reduce(
            torch.add,
            (tower.on_grid(each, index) for each, index in zip(maps, layers, strict=True)),
        )


register(LegradLibra())
