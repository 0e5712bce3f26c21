"""LeGrad without autograd: intermediate values of one forward pass, then a backward pass by hand.

Source: LeGrad (arXiv 2404.03214), section 3. The layer score depends on a block's attention only
through O = A V, so d s / d A = G V^T with G = d s / d O, and G follows from the block's weights:

- the score reaches Z through pooling, so one vector per target (:meth:`TokenHead.gradient`);
- Z = X + W2 act(h), h = W1 (gamma x + beta) + b1, x = X standardised, sigma = deviation of X;
- X = input + W_O O.

The way back from Z to O passes W1, gamma, the layer norm and W_O. The backward of the layer norm
centres a vector, removes its component along x and divides by sigma. Centring and W_O are linear
and the same for every token and target, so W1 gamma centring W_O folds into ONE matrix per block.
For a token i and a target, with m = act'(h_i) * (W2^T g), this gives

    G_i = g W_O + (m folded - c_i (x_i W_O)) / sigma_i,      c_i = m . (W1 gamma x_i) / d

where W1 gamma x_i is h_i without its constant part, which the forward pass has computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from legrad_engine.families.attention import Attention
from legrad_engine.families.base import KnownBlock
from legrad_engine.families.heads import TokenHead, at_least_float32, standardize
from legrad_engine.legrad.rectified_product import RectifiedProduct

_CHUNK_ELEMENTS = {"cpu": 2_500_000}
_CHUNK_ELEMENTS_ELSEWHERE = 256_000_000


@dataclass(frozen=True, slots=True)
class FoldedBlock:
    """A block's weights, folded for the backward pass.

    Attributes:
        contract: ``[d, hidden]``, W2 with the layer scale of the MLP.
        folded: ``[hidden, d]``, W1 gamma centring W_O.
        output_projection: ``[d, d]``, W_O with the layer scale of the attention.
        hidden_constant: ``[hidden]``, the part of h that does not depend on the token.
        activation: the elementwise activation.
    """

    contract: Tensor
    folded: Tensor
    output_projection: Tensor
    hidden_constant: Tensor
    activation: nn.Module

    @classmethod
    @torch.no_grad()
    def fold(cls, block: KnownBlock) -> "FoldedBlock":
        """Fold a block's weights in float32 at least; return them in the block's own dtype."""
        dtype = block.expand.weight.dtype
        contract = at_least_float32(block.contract.weight)
        if block.mlp_scale is not None:
            contract = at_least_float32(block.mlp_scale)[:, None] * contract
        projection = at_least_float32(block.output_projection.weight)
        if block.attention_scale is not None:
            projection = at_least_float32(block.attention_scale)[:, None] * projection
        expand = at_least_float32(block.expand.weight)
        scaled = expand * at_least_float32(block.norm.weight)
        folded = (scaled - scaled.mean(1, keepdim=True)) @ projection
        constant = expand @ at_least_float32(block.norm.bias)
        if block.expand.bias is not None:
            constant = constant + at_least_float32(block.expand.bias)
        return cls(
            contract.to(dtype),
            folded.to(dtype),
            projection.to(dtype),
            constant.to(dtype),
            block.activation,
        )


@dataclass(frozen=True, slots=True)
class ClosedFormTrace:
    """Values of one block that the backward pass needs, for the R token rows that the score reads.

    Attributes:
        values: ``[B, heads, N, head_dim]``, the attention's values.
        normalized: ``[B, R, d]``, the tokens after attention, standardised.
        inverse_std: ``[B, R, 1]``.
        hidden: ``[B, R, hidden]``, the input of the MLP's activation.
        state: ``[B, S, d]``, see :meth:`TokenHead.state`.
    """

    values: Tensor
    normalized: Tensor
    inverse_std: Tensor
    hidden: Tensor
    state: Tensor


@dataclass(frozen=True, slots=True)
class BlockPass:
    """Result of the forward pass through a traced block: its output, or only its pooled states.

    Attributes:
        trace: the values that the backward pass needs.
        tokens: ``[B, N, d]``; None where only pooled states were computed.
        served_state: the served head's state where ``tokens`` is None, else None.
    """

    trace: ClosedFormTrace
    tokens: Tensor | None
    served_state: Tensor | None


def trace_block(
    block: KnownBlock,
    tokens: Tensor,
    attention: Attention,
    head: TokenHead,
    served_head: TokenHead,
    *,
    last: bool,
) -> BlockPass:
    """Run the rest of a block after its attention and keep the values that the backward pass needs.

    Only the heads read the tokens of the last block. Where both heads average the rows first, the
    MLP's second matrix is applied to the pooled activations instead of every token: an average
    commutes with a linear map. Where both heads read the same rows, no other row is computed.

    Args:
        block: the block's parts.
        tokens: ``[B, N, d]``, the block's input.
        attention: the block's attention on its input.
        head: the head of the explained score.
        served_head: the head of the model's own output.
        last: whether this is the tower's last block.
    """
    pooled_only = last and head.averaged and served_head.averaged
    computed = head.rows if pooled_only and head.rows == served_head.rows else slice(None)
    merged = attention.output[:, :, computed].transpose(1, 2).flatten(2)
    merged = block.output_projection(merged)
    if block.attention_scale is not None:
        merged = merged * block.attention_scale
    attended = tokens[:, computed] + merged
    hidden = block.expand(block.norm(attended))
    activated = block.activation(hidden)

    explained = slice(None) if computed == head.rows else head.rows
    normalized, inverse_std = standardize(attended[:, explained], block.norm.eps)

    def finish(attended: Tensor, activated: Tensor) -> Tensor:
        change: Tensor = block.contract(activated)
        return attended + (change if block.mlp_scale is None else change * block.mlp_scale)

    output = served_state = None
    if pooled_only:
        served = slice(None) if computed == served_head.rows else served_head.rows
        pooled = [
            (attended[:, rows].mean(1, keepdim=True), activated[:, rows].mean(1, keepdim=True))
            for rows in (explained, served)
        ]
        states = finish(
            torch.cat([attended for attended, _ in pooled], 1),
            torch.cat([activated for _, activated in pooled], 1),
        )
        state, served_state = states[:, :1], states[:, 1:]
    else:
        output = finish(attended, activated)
        state = head.state(output)
    trace = ClosedFormTrace(
        values=attention.values.contiguous(),
        normalized=normalized,
        inverse_std=inverse_std,
        hidden=hidden[:, explained].contiguous(),
        state=state,
    )
    return BlockPass(trace, output, served_state)


def activation_derivative(activation: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Compute the derivative of an elementwise activation, of the shape of its input."""
    ones = torch.ones((), device=hidden.device, dtype=hidden.dtype).expand_as(hidden)
    if isinstance(activation, nn.GELU):
        # The kernel that autograd calls, without computing the activation first.
        derivative: Tensor = torch.ops.aten.gelu_backward(
            ones, hidden, approximate=activation.approximate
        )
        return derivative
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        (derivative,) = torch.autograd.grad(activation(leaf), leaf, ones)
    return derivative


@dataclass(frozen=True, slots=True)
class BackwardRules:
    """Rules of the walk back, by default those of the derivative.

    Attributes:
        head: from a head, its state and targets to :meth:`TokenHead.gradient`.
        activation: from an activation and its input to the factor that stands for its derivative.
        through_deviation: whether the deviation of the norm depends on its input.
    """

    head: Callable[[TokenHead, Tensor, Tensor], Tensor]
    activation: Callable[[nn.Module, Tensor], Tensor]
    through_deviation: bool


DERIVATIVE = BackwardRules(
    lambda head, state, targets: head.gradient(state, targets),
    activation_derivative,
    through_deviation=True,
)


def attribute_block(
    block: FoldedBlock,
    trace: ClosedFormTrace,
    head: TokenHead,
    targets: Tensor,
    product: RectifiedProduct,
    rules: BackwardRules = DERIVATIVE,
) -> Tensor:
    """Compute LeGrad's layer map: the mean over heads and rows of ReLU(d s / d A).

    Args:
        block: the block's folded weights.
        trace: the block's trace for B images.
        head: the score head that the trace was made with.
        targets: ``[B, P, e]`` unit vectors.
        product: computes the sum of ReLU(G V^T).
        rules: the rules of the walk back.

    Returns:
        ``[B, P, N]``, one value per key token, at least float32.
    """
    batch, heads, keys, _ = trace.values.shape
    rows, width = trace.normalized.shape[1:]
    dtype = trace.hidden.dtype
    gradient = rules.head(head, trace.state, targets)
    # A unit gradient keeps half precision in range; the last line multiplies by its length again.
    size = gradient.flatten(2).norm(dim=-1).clamp_min(1e-30)
    gradient = (gradient / size[..., None, None]).to(dtype)

    back = gradient @ block.contract
    through = gradient @ block.output_projection
    derivative = rules.activation(block.activation, trace.hidden)
    alignment = (trace.hidden - block.hidden_constant).mul_(derivative)
    along = trace.normalized @ block.output_projection

    limit = _CHUNK_ELEMENTS.get(derivative.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    affordable = max(1, limit // (rows * derivative.shape[-1]))
    target_step = min(affordable, targets.shape[1])
    image_step = max(1, affordable // target_step)
    maps = torch.empty(batch, targets.shape[1], keys, device=size.device, dtype=size.dtype)
    for first in range(0, batch, image_step):
        images = slice(first, first + image_step)
        for start in range(0, targets.shape[1], target_step):
            chunk = slice(start, start + target_step)
            mixed = derivative[images, None] * back[images, chunk]
            at_output = mixed @ block.folded
            if rules.through_deviation:
                aligned = _row_products(back[images, chunk], alignment[images]) / width
                at_output.addcmul_(aligned.unsqueeze(-1), along[images, None], value=-1)
            at_output = torch.addcmul(
                through[images, chunk], at_output, trace.inverse_std[images, None]
            )
            per_head = at_output.view(*at_output.shape[:-1], heads, -1).transpose(2, 3)
            maps[images, chunk] = product(per_head, trace.values[images])
    pooled_rows = rows if head.averaged else 1
    weight: Tensor = size / (pooled_rows * heads * keys)
    return maps * weight.unsqueeze(-1)


def _row_products(back: Tensor, alignment: Tensor) -> Tensor:
    """Compute dot products ``[B, P, R]`` of ``[B, P, 1 or R, hidden]`` and ``[B, R, hidden]``."""
    if back.shape[2] == 1:
        return back.squeeze(2) @ alignment.transpose(-1, -2)
    return (back * alignment.unsqueeze(1)).sum(-1)
