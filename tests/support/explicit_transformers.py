"""LeGrad by its definition on the modules of transformers, slow and by autograd.

An independent check of conversions: a model of transformers runs its own forward pass with explicit
attention, a recorder keeps the result of each softmax, and the score is differentiated with respect
to it. It shares no code with the engine.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)


class _SoftmaxRecorder(TorchFunctionMode):
    """Records the result of every softmax, computed in the dtype of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func not in _SOFTMAX:
            return func(*args, **named)
        # transformers asks for float32, which is less than the float64 of this check.
        named.pop("dtype", None)
        self.results.append(func(*args, **named))
        return self.results[-1]


def exact(model: Any) -> Any:
    """Return a float64 copy of a model."""
    copied = copy.deepcopy(model).double()
    copied.set_attn_implementation("eager")
    return copied


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Return the features ``[B, e]`` that the model compares with texts, or classifies."""
    return _features(model, _last_tokens(model, pixels), "served")


def text_features(model: Any, ids: Tensor) -> Tensor:
    """Return the text features ``[T, e]`` of token ids ``[T, context]``."""
    found = model.get_text_features(ids)
    # Older versions return the tensor itself.
    return getattr(found, "pooler_output", found)  # type: ignore[no-any-return]


def logits(model: Any, pixels: Tensor) -> Tensor:
    """Return the logits ``[B, classes]`` of a classifier."""
    return model(pixels).logits  # type: ignore[no-any-return]


def explicit_transformers_maps(
    model: Any, pixels: Tensor, targets: Tensor, layers: Sequence[int], score: str
) -> Tensor:
    """Return the summed LeGrad maps ``[P, patches]`` of one image, in float64.

    Args:
        model: from :func:`exact`.
        pixels: ``[3, H, W]``.
        targets: ``[P, e]`` unit vectors.
        layers: block indices.
        score: the pooling of the explained score.
    """
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    with _SoftmaxRecorder() as recorder, torch.enable_grad():

        def entered(*_: Any) -> None:
            recorder.results.clear()

        def left(_module: Any, _inputs: Any, output: Any) -> None:
            (attention,) = recorder.results
            weights.append(attention)
            outputs.append(output[0] if isinstance(output, tuple) else output)

        blocks = _blocks(model)
        handles = [block.register_forward_pre_hook(entered) for block in blocks]
        handles += [block.register_forward_hook(left) for block in blocks]
        _run(model, pixels.double().unsqueeze(0))
        for handle in handles:
            handle.remove()
        total: Any = 0
        for layer in layers:
            recorder.results.clear()
            features = _features(model, outputs[layer], score)
            attention = recorder.results[-1] if score == "pooler" else weights[layer]
            cosines = targets.double() @ F.normalize(features, dim=-1)[0]
            gradients = torch.stack(
                [torch.autograd.grad(each, attention, retain_graph=True)[0] for each in cosines]
            )
            # [P, ..., queries, keys]: over heads and queries.
            maps = gradients.clamp(min=0).flatten(1, -2).mean(1)
            total = total + maps[:, 0 if score == "pooler" else _prefix(model) :]
    return total.detach()  # type: ignore[no-any-return]


def _vision(model: Any) -> Any:
    if hasattr(model, "vision_model"):
        return model.vision_model
    return getattr(model, model.base_model_prefix, model) if _is_classifier(model) else model


def _is_classifier(model: Any) -> bool:
    return "ForImageClassification" in type(model).__name__


def _blocks(model: Any) -> list[nn.Module]:
    return list(next(each for each in _vision(model).modules() if isinstance(each, nn.ModuleList)))


def _prefix(model: Any) -> int:
    if "Siglip" in type(model).__name__:
        return 0
    if "DeiT" in type(model).__name__:
        return 2
    return 1 + int(getattr(model.config, "num_register_tokens", 0))


def _run(model: Any, pixels: Tensor) -> None:
    vision = _vision(model)
    if "Siglip2" not in type(model).__name__:
        vision(pixels)
        return
    patch = model.config.vision_config.patch_size
    count, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    patches = pixels.reshape(count, channels, rows, patch, columns, patch)
    flat = patches.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
    mask = torch.ones(count, rows * columns, dtype=torch.long)
    vision(flat, pixel_attention_mask=mask, spatial_shapes=torch.tensor([[rows, columns]] * count))


def _last_tokens(model: Any, pixels: Tensor) -> Tensor:
    found: list[Tensor] = []

    def left(_module: Any, _inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handle = _blocks(model)[-1].register_forward_hook(left)
    _run(model, pixels)
    handle.remove()
    return found[0]


def _features(model: Any, tokens: Tensor, score: str) -> Tensor:
    name, vision = type(model).__name__, _vision(model)
    if "Siglip" in name:
        if score == "served":
            return vision.head(vision.post_layernorm(tokens))  # type: ignore[no-any-return]
        return _pooled(vision.head, vision.post_layernorm(tokens))
    if name == "CLIPModel":
        pooled = tokens.mean(1) if score == "mean" else tokens[:, 0]
        return model.visual_projection(vision.post_layernorm(pooled))  # type: ignore[no-any-return]
    if "Beit" in name and model.config.use_mean_pooling:
        return vision.pooler.layernorm(tokens[:, 1:].mean(1))  # type: ignore[no-any-return]
    norm = vision.norm if hasattr(vision, "norm") else vision.layernorm
    if score == "mean":
        pooled = norm(tokens.mean(1))
        reads_two = name.endswith("WithTeacher") or ("Dinov2" in name and _is_classifier(model))
        return torch.cat([pooled, pooled], -1) if reads_two else pooled
    normalized = norm(tokens)
    if name.endswith("WithTeacher"):
        return normalized[:, :2].flatten(1)  # type: ignore[no-any-return]
    if "Dinov2" in name and _is_classifier(model):
        patches = normalized[:, _prefix(model) :].mean(1)
        return torch.cat([normalized[:, 0], patches], -1)
    return normalized[:, 0]  # type: ignore[no-any-return]


def _pooled(head: Any, tokens: Tensor) -> Tensor:
    """Run SigLIP's pooler with its attention written out: nn.MultiheadAttention hides it."""
    attention = head.attention
    inputs = (head.probe, tokens, tokens)
    query, key, value = (
        F.linear(each, weight, bias).view(*each.shape[:2], attention.num_heads, -1).transpose(1, 2)
        for each, weight, bias in zip(
            inputs,
            attention.in_proj_weight.chunk(3),
            attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    pooled = attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
    return (pooled + head.mlp(head.layernorm(pooled)))[:, 0]  # type: ignore[no-any-return]
