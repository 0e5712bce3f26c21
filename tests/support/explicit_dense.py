"""Methods without a gradient by their definitions, slow: attention matrices as tensors, in float64.

An independent check: it runs a model's modules by itself and shares no code with the engine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import CustomResidualAttentionBlock
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.support.explicit_legrad import positions

DUAL_PATH = 6


class _Attention(TorchFunctionMode):
    """Records the inputs of fused attention, and puts another result in its place."""

    def __init__(self, output: Tensor | None = None) -> None:
        super().__init__()
        self.output = output
        self.inputs: tuple[Tensor, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not F.scaled_dot_product_attention:
            return result
        self.inputs = args[:3]
        return result if self.output is None else self.output


class Explicit(ABC):
    """A model in float64, in pieces."""

    prefix = 1
    depth: int
    pools_by_attention = False

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """Return the input of the first block ``[B, N, d]``."""

    @abstractmethod
    def normed(self, x: Tensor, index: int) -> Tensor:
        """Return the input of a block's attention."""

    @abstractmethod
    def inputs(self, x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values ``[B, heads, N, c]`` of a block."""

    @abstractmethod
    def addition(self, x: Tensor, output: Tensor, index: int) -> Tensor:
        """Return what a block adds to its input for an attention with that output."""

    @abstractmethod
    def with_mlp(self, x: Tensor, index: int) -> Tensor:
        """Run the second half of a block."""

    @abstractmethod
    def token_features(self, tokens: Tensor) -> Tensor:
        """Return the features of tokens ``[..., d]``, each as if it was pooled alone."""

    @abstractmethod
    def features(self, tokens: Tensor) -> Tensor:
        """Return the model's own features of the last block's output."""

    def attend(self, x: Tensor, index: int) -> Tensor:
        """Return the attention's own output."""
        queries, keys, values = self.inputs(x, index)
        return softmax_product(queries, keys, queries.shape[-1] ** -0.5) @ values

    def finish(self, x: Tensor, output: Tensor, index: int) -> Tensor:
        """Run a block with another output of its attention."""
        return self.with_mlp(x + self.addition(x, output, index), index)

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Run some blocks."""
        for index in range(first, last):
            x = self.finish(x, self.attend(x, index), index)
        return x


def softmax_product(queries: Tensor, keys: Tensor, scale: float | Tensor) -> Tensor:
    logits = queries @ keys.transpose(-1, -2) * scale
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def patch_embeddings(explicit: Explicit, tokens: Tensor) -> Tensor:
    return F.normalize(explicit.token_features(tokens[:, explicit.prefix :]), dim=-1)


def explicit_maskclip(explicit: Explicit, pixels: Tensor, targets: Tensor) -> Tensor:
    """Return ``[B, P, patches]``; so do the functions below."""
    x, last = explicit.tokens(pixels), explicit.depth - 1
    x = explicit.run(x, 0, last)
    if explicit.pools_by_attention:
        x = explicit.run(x, last, last + 1)
    else:
        x = explicit.finish(x, explicit.inputs(x, last)[2], last)
    return targets @ patch_embeddings(explicit, x).transpose(1, 2)


def explicit_sclip(explicit: Explicit, pixels: Tensor, targets: Tensor) -> Tensor:
    x, last = explicit.tokens(pixels), explicit.depth - 1
    x = explicit.run(x, 0, last)
    queries, keys, values = explicit.inputs(x, last)
    scale = queries.shape[-1] ** -0.5
    weights = softmax_product(queries, queries, scale) + softmax_product(keys, keys, scale)
    x = explicit.finish(x, weights @ values, last)
    return targets @ patch_embeddings(explicit, x).transpose(1, 2)


def explicit_gem(explicit: Explicit, pixels: Tensor, targets: Tensor) -> Tensor:
    def attend(normed: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        values = inputs[2]
        sharpness = normed.norm(dim=-1).mean(-1) * values.shape[-1] ** -0.5
        sharpness = sharpness[:, None, None, None]
        outputs = []
        for vectors in inputs:
            unit = F.normalize(vectors, dim=-1)
            unit = F.normalize(softmax_product(unit, unit, sharpness) @ unit, dim=-1)
            outputs.append(softmax_product(unit, unit, sharpness) @ values)
        return torch.stack(outputs).mean(0)

    path, _ = _dual_path(explicit, pixels, attend)
    return targets @ patch_embeddings(explicit, path).transpose(1, 2)


def explicit_clip_surgery(explicit: Explicit, pixels: Tensor, targets: Tensor) -> Tensor:
    def attend(_: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        values = inputs[2]
        return softmax_product(values, values, values.shape[-1] ** -0.5) @ values

    path, tokens = _dual_path(explicit, pixels, attend)
    patches = patch_embeddings(explicit, path)
    if targets.shape[1] == 1:
        return targets @ patches.transpose(1, 2)
    image = F.normalize(explicit.features(tokens), dim=-1)
    logits = 2 * torch.einsum("be,bpe->bp", image, targets)
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    weights = shares / shares.mean(1, keepdim=True)
    features = torch.einsum("bne,bpe,bp->bnpe", patches, targets, weights)
    features = features - features.mean(2, keepdim=True)
    return features.sum(-1).transpose(1, 2)


def _dual_path(
    explicit: Explicit,
    pixels: Tensor,
    attend: Callable[[Tensor, tuple[Tensor, Tensor, Tensor]], Tensor],
) -> tuple[Tensor, Tensor]:
    first = max(0, explicit.depth - DUAL_PATH)
    x = explicit.run(explicit.tokens(pixels), 0, first)
    path = x
    for index in range(first, explicit.depth):
        output = attend(explicit.normed(x, index), explicit.inputs(x, index))
        path = path + explicit.addition(x, output, index)
        x = explicit.run(x, index, index + 1)
    return path, x


class ExplicitOpenClip(Explicit):
    """open_clip's VisionTransformer."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.blocks = visual.transformer.resblocks
        self.depth = len(self.blocks)
        self.pools_by_attention = visual.attn_pool is not None

    def tokens(self, pixels: Tensor) -> Tensor:
        visual = self.visual
        patches = visual.conv1(pixels)
        rows, columns = patches.shape[-2:]
        patches = patches.flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([first, patches], 1) + positions(visual, (rows, columns))
        return visual.ln_pre(x)  # type: ignore[no-any-return]

    def normed(self, x: Tensor, index: int) -> Tensor:
        return self.blocks[index].ln_1(x)  # type: ignore[no-any-return]

    def inputs(self, x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.blocks[index].attn
        projected = self.normed(x, index) @ attention.in_proj_weight.T + attention.in_proj_bias
        query, key, value = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, dim=-1)
        )
        if isinstance(self.blocks[index], CustomResidualAttentionBlock):
            query, key = attention.ln_q(query), attention.ln_k(key)
        return query, key, value

    def addition(self, x: Tensor, output: Tensor, index: int) -> Tensor:
        block = self.blocks[index]
        custom = isinstance(block, CustomResidualAttentionBlock)
        if custom and block.attn.head_scale is not None:
            output = output * block.attn.head_scale
        merged = output.transpose(1, 2).flatten(2)
        if custom:
            merged = block.ln_attn(block.attn.out_proj(block.attn.ln_inner(merged)))
        else:
            merged = block.attn.out_proj(merged)
        return block.ls_1(merged)  # type: ignore[no-any-return]

    def with_mlp(self, x: Tensor, index: int) -> Tensor:
        block = self.blocks[index]
        return x + block.ls_2(block.mlp(block.ln_2(x)))  # type: ignore[no-any-return]

    def token_features(self, tokens: Tensor) -> Tensor:
        visual = self.visual
        if self.pools_by_attention:
            tokens = self._value_path(tokens)
        return visual.ln_post(tokens) @ visual.proj  # type: ignore[no-any-return]

    def _value_path(self, tokens: Tensor) -> Tensor:
        attention = self.visual.attn_pool.attn
        if attention.in_proj_weight is None:
            weight = attention.v_proj_weight
        else:
            weight = attention.in_proj_weight.chunk(3)[2]
        values = self.visual.attn_pool.ln_k(tokens) @ weight.T + attention.in_proj_bias.chunk(3)[2]
        return attention.out_proj(values)  # type: ignore[no-any-return]

    def features(self, tokens: Tensor) -> Tensor:
        visual = self.visual
        if self.pools_by_attention:
            pooled = visual.attn_pool(tokens)[:, 0]
        elif visual.pool_type == "tok":
            pooled = tokens[:, 0]
        elif visual.final_ln_after_pool:
            pooled = tokens[:, 1:].mean(1)
        else:
            return (visual.ln_post(tokens)[:, 1:].mean(1)) @ visual.proj  # type: ignore[no-any-return]
        return visual.ln_post(pooled) @ visual.proj  # type: ignore[no-any-return]


class ExplicitTimm(Explicit):
    """A timm trunk of pre-norm blocks; ``visual`` has the parts ``trunk`` and ``head``."""

    def __init__(self, visual: Any) -> None:
        self.visual, self.trunk = visual, visual.trunk
        self.depth = len(self.trunk.blocks)
        self.prefix = self.trunk.num_prefix_tokens
        self.pools_by_attention = getattr(self.trunk, "global_pool", "") == "map"
        self.arguments: dict[str, Any] = {}
        for module in self.trunk.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True

    def tokens(self, pixels: Tensor) -> Tensor:
        found = self.trunk._pos_embed(self.trunk.patch_embed(pixels))
        if isinstance(found, tuple):
            found, rope = found
            self.arguments = {} if rope is None else {"rope": rope}
        return self.trunk.norm_pre(found)  # type: ignore[no-any-return]

    def normed(self, x: Tensor, index: int) -> Tensor:
        return self.trunk.blocks[index].norm1(x)  # type: ignore[no-any-return]

    def _attention(self, x: Tensor, index: int, output: Tensor | None) -> tuple[Any, Tensor]:
        block = self.trunk.blocks[index]
        with _Attention(output) as mode:
            added = block.attn(self.normed(x, index), **self.arguments)
        scale = getattr(block, "gamma_1", None)
        scaled = block.ls1(added) if hasattr(block, "ls1") else added
        return mode.inputs, scaled if scale is None else scaled * scale

    def inputs(self, x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self._attention(x, index, None)[0]
        return query, key, value

    def addition(self, x: Tensor, output: Tensor, index: int) -> Tensor:
        return self._attention(x, index, output)[1]

    def with_mlp(self, x: Tensor, index: int) -> Tensor:
        block = self.trunk.blocks[index]
        added = block.mlp(block.norm2(x))
        scale = getattr(block, "gamma_2", None)
        scaled = block.ls2(added) if hasattr(block, "ls2") else added
        return x + (scaled if scale is None else scaled * scale)  # type: ignore[no-any-return]

    def token_features(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        tokens = trunk.norm(tokens)
        if self.pools_by_attention:
            pool = trunk.attn_pool
            tokens = pool.proj(pool.kv(tokens).chunk(2, -1)[1])
            tokens = tokens + pool.mlp(pool.norm(tokens))
        return self.visual.head(trunk.head(trunk.fc_norm(tokens)))  # type: ignore[no-any-return]

    def features(self, tokens: Tensor) -> Tensor:
        pooled = self.trunk.forward_head(self.trunk.norm(tokens))
        return self.visual.head(pooled)  # type: ignore[no-any-return]


class FrozenNorms(TorchFunctionMode):
    """Records the deviations of layer norms, or divides by those of another run."""

    def __init__(self, deviations: list[Tensor] | None = None) -> None:
        super().__init__()
        self.recorded: list[Tensor] = []
        self.given = None if deviations is None else iter(deviations)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.layer_norm:
            return func(*args, **(kwargs or {}))
        return self.normalize(*args, **(kwargs or {}))

    def normalize(self, inputs: Tensor, _: Any, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = inputs - inputs.mean(-1, keepdim=True)
        if self.given is None:
            deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
            self.recorded.append(deviation)
        else:
            deviation = next(self.given)
        return centred / deviation * weight + bias


def linear_part(function: Callable[[Tensor], Tensor], at: Tensor, summand: Tensor) -> Tensor:
    """Return the share of a summand in ``function(at)``, the norms' deviations held at those there.

    Args:
        function: of layer norms and linear layers.
        at: ``[d]``.
        summand: ``[..., d]``.
    """
    with FrozenNorms() as record:
        function(at)
    with FrozenNorms(record.recorded):
        whole = function(summand)
    with FrozenNorms(record.recorded):
        return whole - function(torch.zeros_like(summand))


def explicit_textspan(
    explicit: ExplicitOpenClip, pixels: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return direct effects of one image's patches, of the MLPs, and of the input.

    Args:
        explicit: the model.
        pixels: ``[3, H, W]``.
        targets: ``[P, e]`` unit vectors.

    Returns:
        ``[P, blocks, heads, keys]``, ``[P, blocks]`` and ``[P]``.
    """
    visual = explicit.visual
    x = explicit.tokens(pixels[None])
    rows = [0] if visual.pool_type == "tok" else list(range(1, x.shape[1]))
    given, additions, changes = x, [], []
    for index in range(explicit.depth):
        queries, keys, values = explicit.inputs(x, index)
        weights = softmax_product(queries, keys, queries.shape[-1] ** -0.5)[0]
        output = weights[None] @ values
        additions.append(_additions_of_keys(explicit, x, index, weights, values[0], output, rows))
        attended = x + explicit.addition(x, output, index)
        x = explicit.with_mlp(attended, index)
        changes.append((x - attended)[0, rows])
    embedding = explicit.features(x)[0]

    def effect(summand: Tensor) -> Tensor:
        """Return the effect ``[P, ...]`` of summands ``[rows, ..., d]`` of the rows."""
        if visual.pool_type == "avg" and not visual.final_ln_after_pool:
            shares = torch.stack(
                [
                    linear_part(visual.ln_post, x[0, row], each)
                    for row, each in zip(rows, summand, strict=True)
                ]
            ).mean(0)
        else:
            shares = linear_part(visual.ln_post, x[0, rows].mean(0), summand.mean(0))
        cosine: Tensor = (shares @ visual.proj) @ targets.T / embedding.norm()
        return cosine.movedim(-1, 0)

    return (
        torch.stack([effect(each) for each in additions], 1),
        torch.stack([effect(each) for each in changes], 1),
        effect(given[0, rows]),
    )


def _additions_of_keys(
    explicit: ExplicitOpenClip,
    x: Tensor,
    index: int,
    weights: Tensor,
    values: Tensor,
    output: Tensor,
    rows: list[int],
) -> Tensor:
    """Return what every head and key adds to every row: ``[rows, heads, keys, d]``."""
    heads, count, width = values.shape
    found = []
    for row in rows:
        single = torch.zeros(heads, count, heads, width, dtype=values.dtype)
        for head in range(heads):
            single[head, :, head] = weights[head, row, :, None] * values[head]

        def add(merged: Tensor) -> Tensor:
            # As an attention of one token for each summand: [M, heads, 1, c].
            split = merged.reshape(-1, heads, 1, width)
            added = explicit.addition(x, split, index)
            return added.reshape(*merged.shape[:-1], -1)

        found.append(linear_part(add, output[0, :, row].flatten(), single.flatten(2)))
    return torch.stack(found)


def exact(model: nn.Module) -> Any:
    """Return an open_clip model's image tower in float64. The model itself is changed."""
    return model.double().get_submodule("visual")
