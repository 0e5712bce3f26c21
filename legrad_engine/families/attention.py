"""Observation and replacement of a block's attention while the block runs its own code.

A PyTorch function mode intercepts the call of fused attention. It is local to the thread and ends
with the ``with`` block; no module is changed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from legrad_engine.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Attention:
    """Values and output of one attention.

    Attributes:
        values: ``[B, heads, N, head_dim]``, the value vector of every key token.
        output: ``[B, heads, Q, head_dim]``, the attention-weighted values of every query token.
    """

    values: Tensor
    output: Tensor


class _AttentionObserved(Exception):  # noqa: N818 # control flow, not an error
    """Leaves a block's code as soon as its attention is known."""


class _AttentionMode(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **named)
        self.calls += 1
        if self.calls > 1:
            raise UnsupportedModelError(
                "One of the model's blocks computes attention more than once."
            )
        return self.attend(*args, **named)

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def require_call(self) -> None:
        if not self.calls:
            raise UnsupportedModelError(
                "The model's attention could not be observed, because it does not call PyTorch's "
                "fused attention. Is TIMM_FUSED_ATTN=0 set?"
            )


class _Observing(_AttentionMode):
    def __init__(self, *, stop: bool) -> None:
        super().__init__()
        self.stop = stop
        self.observed: list[Attention] = []

    def attend(self, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = F.scaled_dot_product_attention(*args, **kwargs)
        value: Tensor = kwargs["value"] if "value" in kwargs else args[2]
        if value.shape[1] != output.shape[1]:
            # Grouped-query attention: several heads share one value.
            value = value.repeat_interleave(output.shape[1] // value.shape[1], 1)
        self.observed.append(Attention(value, output))
        if self.stop:
            raise _AttentionObserved
        return output


class _Replacing(_AttentionMode):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def attend(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ARG002
        return self.output


def run_observed(run: Callable[[], Tensor]) -> tuple[Attention, Tensor]:
    """Run code that computes attention once; return the attention and the code's result.

    Raises:
        UnsupportedModelError: the code calls fused attention never, or more than once.
    """
    mode = _Observing(stop=False)
    with mode:
        result = run()
    mode.require_call()
    return mode.observed[0], result


def attention_of(run: Callable[[], Tensor]) -> Attention:
    """Run code up to its first attention and no further; see :func:`run_observed`."""
    mode = _Observing(stop=True)
    try:
        with mode:
            run()
    except _AttentionObserved:
        pass
    mode.require_call()
    return mode.observed[0]


def run_with_attention(run: Callable[[], Tensor], output: Tensor) -> Tensor:
    """Run code that computes attention once, with ``output`` in place of the attention's output.

    Differentiable in ``output``.

    Raises:
        UnsupportedModelError: see :func:`run_observed`.
    """
    mode = _Replacing(output)
    with mode:
        result = run()
    mode.require_call()
    return result
