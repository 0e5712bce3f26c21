"""B-cos: every pixel's share of the target's logit, by the model's own linear map."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.base import Tower
from legrad_engine.families.bcos_vit import BcosTower, unit_scale, with_inverse
from legrad_engine.families.heads import ScoreHead, at_least_float32
from legrad_engine.methods.base import Method, ModelParts
from legrad_engine.methods.registry import register

# All activations of the model are kept for the walk back: the memory of a batch is bounded.
_IMAGES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class PixelsTrace:
    """The input of the model.

    Attributes:
        pixels: ``[B, 3, H, W]``, from 0 to 1.
    """

    pixels: Tensor


class Bcos(Method[PixelsTrace]):
    """``sum_c x_c (W(x) x)_c``: input times gradient, with the model's dynamic factors constant.

    A target is a unit vector t over the features f, and its logit is the B-cos unit
    ``|cos(f, t)| (t . f)``: for a class, the model's own logit without its bias. The shares of all
    pixels, the share of the position embeddings and the bias add up to the logit.
    """

    name = "bcos"
    title = "B-cos"
    description = (
        "For models of B-cos units alone, which are linear once their dynamic factors are known.\n"
        "Every pixel times its weight for the target, summed over the channels and each patch.\n"
        "Patches, position embeddings and bias add up to the logit; negatives speak against it."
    )
    source = (
        "Böhle et al., CVPR 2022, arXiv 2205.10268; ViTs: TPAMI 2024, arXiv 2306.10898 (package "
        "bcos)"
    )
    default_layers = "all"
    takes_layers = "all"
    # A second forward pass, and a backward pass for each target.
    trace_share = 1.0
    target_share = 1.0

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        if isinstance(tower, BcosTower):
            return None
        return (
            "it needs a model of B-cos units, which is linear in its input once their factors are "
            "known: a model bcos:NAME@PATH; 'legrad' comes nearest"
        )

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        if isinstance(tower, BcosTower):
            return (
                "A patch's value is the sum over its pixels, in units of the logit. A target that "
                "is no class is explained as a class with these weights would be."
            )
        return None

    def trace_pixels(
        self, tower: Tower, pixels: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[PixelsTrace, ...], Tensor]:
        """See :meth:`Method.trace_pixels`."""
        _, features = self.trace(tower, tower.embed(pixels), layers, head)
        return (PixelsTrace(pixels),), features

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[PixelsTrace, ...], Tensor]:
        """Compute the features alone: tokens do not tell the pixels."""
        for index in layers:
            tokens = tower.forward_block(tokens, index)
        return (), head.features(head.state(tokens))

    def maps(
        self,
        tower: Tower,
        blocks: tuple[PixelsTrace, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del layers, head, parts
        if not isinstance(tower, BcosTower) or not blocks:
            raise InvalidOptionError("The trace was made by another model.", field="trace")
        (trace,) = blocks
        chunks = zip(
            torch.split(trace.pixels, _IMAGES_AT_ONCE),
            torch.split(targets, _IMAGES_AT_ONCE),
            strict=True,
        )
        return torch.cat([_contributions(tower, pixels, vectors) for pixels, vectors in chunks])

    def work(
        self, tower: Tower, layers: tuple[int, ...], targets: int, *, traced: bool = False
    ) -> float:
        """See :meth:`Method.work`: a trace saves the first of two forward passes alone."""
        work = super().work(tower, layers, targets)
        return work - 1 if traced else work


def _contributions(tower: BcosTower, pixels: Tensor, targets: Tensor) -> Tensor:
    """Sum the shares of the pixels over each patch, ``[B, P, patches]``, at least float32."""
    inputs = with_inverse(pixels)
    # The gradient of one pixel is too small for half precision.
    scale = float(pixels.shape[-2] * pixels.shape[-1])
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        features = tower.linear_features(leaf)
        outputs = torch.einsum("be,bpe->bp", features, at_least_float32(targets))
        logits = outputs * unit_scale(outputs, features).detach()
        totals = logits.sum(0).unbind()
    shares: list[Tensor] = []
    for total in totals:
        factor = torch.full_like(total, scale)
        (gradient,) = torch.autograd.grad(total, leaf, factor, retain_graph=True)
        share = (at_least_float32(inputs) * at_least_float32(gradient)).sum(1, keepdim=True) / scale
        area = tower.patch_size[0] * tower.patch_size[1]
        shares.append(F.avg_pool2d(share, tower.patch_size).flatten(1) * area)
    return torch.stack(shares, 1)


register(Bcos())
