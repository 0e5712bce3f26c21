"""GradCAM on tokens: channels of the last block's first norm, weighted by their mean gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead, at_least_float32
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.registry import register
from legrad_engine.methods.rows import (
    LastBlockTrace,
    Reading,
    TokensTrace,
    reads_no_patch,
    trace_last_block,
    trace_tokens,
)


class GradCam(Method[LastBlockTrace | TokensTrace]):
    """``ReLU(sum_c w_c a_jc)``, a the tokens after the last block's first norm.

    ``w_c`` is the mean of d s / d a_jc over the patches. With a score that reads only the class
    token, patches reach it as keys and values of one row of attention. The mean over patches of
    their gradients is then a product of vectors: no gradient of a single patch is computed.
    """

    name = "gradcam"
    title = "GradCAM"
    description = (
        "The channels of the patches before the last block's attention.\n"
        "Each channel is weighted by the mean gradient of the score with respect to it.\n"
        "Only what speaks for the target is kept."
    )
    source = "Selvaraju et al., ICCV 2017, arXiv 1610.02391; on tokens as in the package grad-cam"
    takes_layers = "last"
    target_share = 0.15
    whole_trace_share = 1.3
    whole_target_share = 1.0

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        if tower.first_norm(tower.depth - 1) is not None:
            return None
        return (
            "its last block has no norm before its attention, whose output this method reads; "
            "'attention-cam' comes nearest"
        )

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[LastBlockTrace | TokensTrace, ...], Tensor]:
        """See :meth:`Method.trace`."""
        del layers
        if _in_closed_form(tower, head):
            trace, features = trace_last_block(tower, tokens, head)
            return (trace,), features
        last, features = trace_tokens(tower, tokens, tower.depth - 1, head)
        return (last,), features

    def maps(
        self,
        tower: Tower,
        blocks: tuple[LastBlockTrace | TokensTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del layers, parts
        (trace,) = blocks
        norm = tower.first_norm(tower.depth - 1)
        if norm is None:
            raise InvalidOptionError("The trace was made by another model.", field="trace")
        normalized = norm(trace.tokens)
        if isinstance(trace, LastBlockTrace):
            weights = _weights_of_rows(tower, trace, head, targets)
        else:
            weights = _weights_by_autograd(tower, trace, normalized, head, targets)
        patches = at_least_float32(tower.patches_of(normalized))
        return (weights @ patches.transpose(-1, -2)).relu_()


def _in_closed_form(tower: Tower, head: ScoreHead) -> bool:
    weights = tower.key_and_value_weights(tower.depth - 1)
    return weights is not None and reads_no_patch(tower, head)


def _weights_of_rows(
    tower: Tower, trace: LastBlockTrace, head: ScoreHead, targets: Tensor
) -> Tensor:
    """Compute the channels' weights ``[B, P, d]`` of a score that reads class tokens alone."""
    projections = tower.key_and_value_weights(tower.depth - 1)
    if projections is None:
        raise InvalidOptionError("The trace was made by another model.", field="trace")
    to_keys, to_values = projections
    reading = Reading.of(tower, trace, head)
    gradient = reading.gradient(tower, trace, head, targets)
    weights = reading.attention.weights()[..., reading.prefix :]
    # Sums over patches: of the weights, and of the weighted values.
    share = weights.sum(-1, keepdim=True).unsqueeze(1)
    seen = (weights @ reading.values).unsqueeze(1)
    output = at_least_float32(reading.attention.output).unsqueeze(1)
    # d s / d V_j = A_j G, and d s / d K_j = scale A_j (G . V_j - G . O) q, both summed over j.
    at_values = (share * gradient).sum(3)
    at_logits = (gradient * (seen - share * output)).sum(-1, keepdim=True)
    queries = at_least_float32(reading.attention.queries).unsqueeze(1) * reading.attention.scale
    at_keys = (at_logits * queries).sum(3)
    channels = at_values.flatten(2) @ at_least_float32(to_values)
    channels = channels + at_keys.flatten(2) @ at_least_float32(to_keys)
    return channels / weights.shape[-1]


def _weights_by_autograd(
    tower: Tower, trace: TokensTrace, normalized: Tensor, head: ScoreHead, targets: Tensor
) -> Tensor:
    """Compute the channels' weights ``[B, P, d]`` of any score."""
    with torch.enable_grad():
        leaf = normalized.detach().requires_grad_()
        finished = tower.forward_from_norm(trace.tokens.detach(), leaf, tower.depth - 1)
        embeddings = F.normalize(head.features(head.state(finished)), dim=-1)
        scores = torch.einsum("be,bpe->p", embeddings, at_least_float32(targets)).unbind()
    count = tower.patches_of(normalized).shape[1]
    # Scaled by the token count: the gradients of an average are too small for half precision.
    scale = torch.full_like(scores[0], count)
    gradients = [torch.autograd.grad(score, leaf, scale, retain_graph=True)[0] for score in scores]
    sums = [at_least_float32(tower.patches_of(each)).sum(1) for each in gradients]
    return torch.stack(sums, 1) / count**2


register(GradCam())
