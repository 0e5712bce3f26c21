"""Observation and replacement of a block's attention while the block runs its own code.

A PyTorch function mode intercepts the call of fused attention. It is local to the thread and ends
with the ``with`` block; no module is changed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.heads import at_least_float32


@dataclass(frozen=True, slots=True)
class Attention:
    """Inputs and output of one attention: ``output = softmax(queries keys^T scale + mask) values``.

    The tensors are those of the model's own computation, without copies.

    Attributes:
        values: ``[B, heads, N, head_dim]``, the value vector of every key token.
        output: ``[B, heads, Q, head_dim]``, the attention-weighted values of every query token.
        queries: ``[B, heads, Q, head_dim]``, as they enter the product.
        keys: ``[B, heads, N, head_dim]``, as they enter the product.
        scale: factor of the product.
        mask: what is added to the scaled product, such as a bias by relative position, or a boolean
            tensor that is False where a query does not read a key; of a shape that broadcasts to
            ``[B, heads, Q, N]``. None for no mask.
    """

    values: Tensor
    output: Tensor
    queries: Tensor
    keys: Tensor
    scale: float
    mask: Tensor | None = None

    def of_queries(self, rows: slice) -> "Attention":
        """Return the attention of some of the queries; tensors are shared."""
        mask = self.mask
        if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
            mask = mask[..., rows, :]
        return replace(
            self, output=self.output[:, :, rows], queries=self.queries[:, :, rows], mask=mask
        )

    def weights(self) -> Tensor:
        """Compute the attention matrix ``[B, heads, Q, N]``, at least float32.

        Its size is quadratic in the number of tokens: choose queries by :meth:`of_queries` first.
        """
        return self.logits().softmax(-1)

    def logits(self) -> Tensor:
        """Compute the input of the softmax of :meth:`weights`, of the same shape."""
        queries = at_least_float32(self.queries) * self.scale
        logits = queries @ at_least_float32(self.keys).transpose(-1, -2)
        if self.mask is None:
            return logits
        if self.mask.dtype == torch.bool:
            return logits.masked_fill(~self.mask, -torch.inf)
        return logits + self.mask


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
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        if self.calls > 1:
            raise UnsupportedModelError(
                "One of the model's blocks computes attention more than once."
            )
        return self.attend(*args, **(kwargs or {}))

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

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        output = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        heads = output.shape[1]
        if value.shape[1] != heads:
            # Grouped-query attention: several heads share one key and one value.
            key, value = (
                each.repeat_interleave(heads // each.shape[1], 1) for each in (key, value)
            )
        if is_causal:
            attn_mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        self.observed.append(Attention(value, output, query, key, factor, attn_mask))
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
