"""LeGrad by its definition on open_clip's timm towers and poolers, slow and by autograd.

An independent check: the model runs its own forward pass without fused attention, a recorder keeps
the result of each softmax, and the score is differentiated with respect to it. It shares no code
with the engine.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.support.explicit_legrad import positions

_SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)


class SoftmaxRecorder(TorchFunctionMode):
    """A mode that records the result of every softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SOFTMAX:
            self.results.append(result)
        return result


def explicit(model: nn.Module) -> Any:
    """Return a float64 copy of an open_clip model's image tower without fused attention."""
    visual: Any = copy.deepcopy(model.get_submodule("visual")).double()
    for module in visual.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return visual


def explained_blocks(trunk: Any) -> list[Any]:
    """Return the blocks whose output the trunk's own head can read."""
    if hasattr(trunk, "layers"):
        return list(trunk.layers[-1].blocks)
    if hasattr(trunk, "stages"):
        return list(trunk.stages[-1].blocks)
    return list(trunk.blocks)


def explicit_timm_maps(
    visual: Any, pixels: Tensor, targets: Tensor, layers: Sequence[int], score: str
) -> Tensor:
    """Return the summed LeGrad maps ``[P, rows, columns]`` of one image, in float64.

    Args:
        visual: from :func:`explicit`, a TimmModel.
        pixels: ``[3, H, W]``.
        targets: ``[P, e]`` unit vectors.
        layers: block indices.
        score: the pooling of the explained score.
    """
    trunk = visual.trunk
    blocks = explained_blocks(trunk)
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    with SoftmaxRecorder() as recorder, torch.enable_grad():

        def entered(*_: Any) -> None:
            recorder.results.clear()

        def left(_module: Any, _inputs: Any, output: Tensor) -> None:
            (attention,) = recorder.results
            outputs.append(output)
            weights.append(attention)

        handles = [block.register_forward_pre_hook(entered) for block in blocks]
        handles += [block.register_forward_hook(left) for block in blocks]
        # The weights may not require a gradient, so the pixels must: else there is no graph.
        visual(pixels.double().unsqueeze(0).requires_grad_())
        for handle in handles:
            handle.remove()

        total: Tensor | None = None
        for layer in layers:
            tokens = outputs[layer]
            if score == "mean" and getattr(trunk, "global_pool", "") == "token":
                tokens = tokens.mean(1, keepdim=True)
            recorder.results.clear()
            features = visual.head(_head(trunk, tokens))
            attention = recorder.results[0] if score == "pooler" else weights[layer]
            cosines = targets.double() @ F.normalize(features, dim=-1)[0]
            maps = torch.stack(
                [
                    torch.autograd.grad(cosine, attention, retain_graph=True)[0].clamp(min=0)
                    for cosine in cosines
                ]
            )
            grid = _on_grid(trunk, blocks[layer], maps.mean(dim=(-3, -2)), pixels)
            total = grid if total is None else total + grid
    assert total is not None
    return total


def _head(trunk: Any, tokens: Tensor) -> Tensor:
    if hasattr(trunk, "final_conv"):
        return trunk.forward_head(trunk.final_conv(tokens))  # type: ignore[no-any-return]
    return trunk.forward_head(trunk.norm(tokens))  # type: ignore[no-any-return]


def _on_grid(trunk: Any, block: Any, maps: Tensor, pixels: Tensor) -> Tensor:
    """Return ``[P, rows, columns]`` from ``[P, windows, keys]``."""
    stride = trunk.feature_info[-1]["reduction"]
    rows, columns = pixels.shape[-2] // stride, pixels.shape[-1] // stride
    if not hasattr(block, "window_size"):
        patches = maps[:, 0, maps.shape[-1] - rows * columns :]
        return patches.reshape(-1, rows, columns)
    height, width = block.window_size
    across = -(-columns // width)
    windows = maps.reshape(len(maps), -1, across, height, width)
    whole = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :rows, :columns]
    return torch.roll(whole, tuple(block.shift_size), (1, 2))


def explicit_coca_maps(
    visual: Any, pixels: Tensor, targets: Tensor, layers: Sequence[int]
) -> Tensor:
    """Return the summed maps of open_clip's VisionTransformer with an attentional pooler."""
    rows, columns = (
        side // patch for side, patch in zip(pixels.shape[1:], visual.patch_size, strict=True)
    )
    if (rows, columns) != tuple(visual.grid_size):
        # `visual` is the caller's own copy.
        visual.positional_embedding = nn.Parameter(positions(visual, (rows, columns)))
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for block in visual.transformer.resblocks
    ]
    with torch.enable_grad():
        visual(pixels.double().unsqueeze(0).requires_grad_())
        for handle in handles:
            handle.remove()
        total: Any = 0
        for layer in layers:
            pooler = visual.attn_pool
            attention = pooler.attn
            keys = pooler.ln_k(outputs[layer])[0]
            queries = pooler.ln_q(pooler.query)
            bias_q, bias_k, bias_v = attention.in_proj_bias.chunk(3)
            if attention.in_proj_weight is None:
                weight_q, weight_k, weight_v = (
                    attention.q_proj_weight,
                    attention.k_proj_weight,
                    attention.v_proj_weight,
                )
            else:
                weight_q, weight_k, weight_v = attention.in_proj_weight.chunk(3)
            heads = attention.num_heads
            query = (queries @ weight_q.T + bias_q).unflatten(-1, (heads, -1)).transpose(0, 1)
            key = (keys @ weight_k.T + bias_k).unflatten(-1, (heads, -1)).transpose(0, 1)
            value = (keys @ weight_v.T + bias_v).unflatten(-1, (heads, -1)).transpose(0, 1)
            weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
            pooled = attention.out_proj((weights @ value).transpose(0, 1).flatten(1))
            features = visual.ln_post(pooled)[0] @ visual.proj
            cosines = targets.double() @ F.normalize(features, dim=-1)
            gradients = torch.stack(
                [torch.autograd.grad(each, weights, retain_graph=True)[0] for each in cosines]
            )
            # [P, heads, queries, keys]: only the first query makes the embedding.
            total = total + gradients[:, :, 0].clamp(min=0).mean(1)[:, 1:]
    return total.unflatten(-1, (rows, columns))  # type: ignore[no-any-return]
