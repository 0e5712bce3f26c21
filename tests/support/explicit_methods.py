"""Explanation methods by their definitions: attention matrices as tensors, gradients by autograd.

An independent check in float64: the model runs its own forward pass with softmax attention written
out, a recorder keeps queries, keys, values and weights, and nothing is shared with the engine.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _WrittenOut(nn.Module):
    """The attention of an ``nn.MultiheadAttention``, batch first, by the call that is recorded."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.original: Any = original
        self.out_proj = original.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        own = self.original
        if own.in_proj_weight is None:
            weights = (own.q_proj_weight, own.k_proj_weight, own.v_proj_weight)
        else:
            weights = own.in_proj_weight.chunk(3)
        q, k, v = (
            F.linear(each, weight, bias).view(*each.shape[:2], own.num_heads, -1).transpose(1, 2)
            for each, weight, bias in zip(
                (query, key, value), weights, own.in_proj_bias.chunk(3), strict=True
            )
        )
        output = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(output.transpose(1, 2).flatten(2)), None


def written_out(visual: nn.Module) -> Any:
    """Return a float64 copy of an image tower whose every attention can be recorded."""
    tower: Any = copy.deepcopy(visual).double()
    for module in list(tower.modules()):
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, _WrittenOut(child))
    return tower


@dataclass
class Recorded:
    """One attention ``[1, heads, ...]``."""

    queries: Tensor
    keys: Tensor
    logits: Tensor
    weights: Tensor


class _Recorder(TorchFunctionMode):
    """Computes every attention by a softmax that is written out, and keeps its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[Recorded] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any
    ) -> Tensor:
        assert not options.get("dropout_p")
        scale = options.get("scale") or query.shape[-1] ** -0.5
        logits = torch.einsum("bhid,bhjd->bhij", query, key) * scale
        if attn_mask is not None:
            logits = logits + attn_mask
        raised = (logits - logits.amax(-1, keepdim=True).detach()).exp()
        weights = raised / raised.sum(-1, keepdim=True)
        self.attentions.append(Recorded(query, key, logits, weights))
        return torch.einsum("bhij,bhjd->bhid", weights, value)


class ExplicitModel:
    """One image through a model, and the methods' definitions on it.

    Attributes:
        rows: the query rows that stand for the score in the last recorded attention.
        prefix: number of keys before the patches.
    """

    def __init__(
        self,
        visual: Any,
        pixels: Tensor,
        *,
        rows: slice,
        prefix: int,
        norms: Sequence[nn.Module],
        cut: Sequence[nn.Module] = (),
    ) -> None:
        """Run the model.

        Args:
            visual: from :func:`written_out`; what it returns are the features.
            pixels: ``[3, H, W]``.
            rows: see the class.
            prefix: see the class.
            norms: the first norm of each block.
            cut: attentions whose input is detached, as AGCAM's reference does.
        """
        self.rows = rows
        self.prefix = prefix
        self.normalized: list[Tensor] = []

        def after(_module: Any, _inputs: Any, output: Tensor) -> None:
            self.normalized.append(output)

        def detached(value: Any) -> Any:
            return value.detach().requires_grad_() if isinstance(value, Tensor) else value

        def before(_module: Any, args: Any, kwargs: Any) -> Any:
            named = {name: detached(value) for name, value in kwargs.items()}
            return tuple(detached(value) for value in args), named

        handles = [norm.register_forward_hook(after) for norm in norms]
        handles += [each.register_forward_pre_hook(before, with_kwargs=True) for each in cut]
        with _Recorder() as recorder, torch.enable_grad():
            # The weights may not require a gradient, so the pixels must: else there is no graph.
            features = visual(pixels.double().unsqueeze(0).requires_grad_())
            self.embedding = F.normalize(features, dim=-1)[0]
        for handle in handles:
            handle.remove()
        self.attentions = recorder.attentions

    def _gradient(self, target: Tensor, tensor: Tensor) -> Tensor:
        score = self.embedding @ target.double()
        (gradient,) = torch.autograd.grad(score, tensor, retain_graph=True, allow_unused=True)
        return (torch.zeros_like(tensor) if gradient is None else gradient).detach()

    def attention_cam(self, target: Tensor) -> Tensor:
        last = self.attentions[-1]
        gradient = self._gradient(target, last.weights)[0, :, self.rows, self.prefix :].mean(1)
        weights = last.weights.detach()[0, :, self.rows, self.prefix :].mean(1)
        result: Tensor = (gradient.mean(1, keepdim=True) * weights).mean(0).relu()
        return result

    def chefercam(self, target: Tensor, layers: Sequence[int] = (-1,)) -> Tensor:
        count = self.attentions[-1].weights.shape[-2]
        start = torch.zeros(count, dtype=torch.float64)
        start[self.rows] = 1 / len(start[self.rows])
        relevance: Tensor = start
        for layer in reversed(layers):
            attention = self.attentions[layer]
            positive = self._gradient(target, attention.weights)[0].relu()
            step = relevance @ (positive * attention.weights.detach()[0]).mean(0)
            # A pooler's queries are not its keys; it is the only attention then.
            relevance = step if len(step) != len(relevance) else relevance + step
        if len(relevance) == len(start):
            relevance = relevance - start
        return relevance[self.prefix :]

    def grad_eclip(self, target: Tensor, projection: Any) -> Tensor:
        last = self.attentions[-1]
        queries = projection(last.queries.detach().transpose(1, 2).flatten(2))[0]
        keys = projection(last.keys.detach().transpose(1, 2).flatten(2))[0, self.prefix :]
        pairs = F.cosine_similarity(queries[self.rows, None], keys[None], dim=-1)
        likeness = pairs.mean(0)
        likeness = (likeness - likeness.min()) / (likeness.max() - likeness.min())
        gradient = self._gradient(target, last.weights)[0, :, self.rows, self.prefix :]
        result: Tensor = (likeness * gradient.mean(1).sum(0)).relu()
        return result

    def agcam(self, target: Tensor, layers: Sequence[int]) -> Tensor:
        total = torch.zeros(())
        for layer in layers:
            attention = self.attentions[layer]
            positive = self._gradient(target, attention.weights)[0].relu()
            gated = positive * attention.logits.detach()[0].sigmoid()
            total = total + gated[:, self.rows, self.prefix :].mean(1).sum(0)
        return total

    def gradcam(self, target: Tensor) -> Tensor:
        last = self.normalized[-1]
        gradient, tokens = (
            self._patches(each) for each in (self._gradient(target, last), last.detach())
        )
        return (tokens @ gradient.mean(0)).relu()

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[0, self.prefix :]
