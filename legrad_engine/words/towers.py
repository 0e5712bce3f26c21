"""Text towers whose tokens are explained: open_clip's own. Others are refused by name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from legrad_engine.errors import InvalidTargetError
from legrad_engine.families.attention import Attention
from legrad_engine.families.heads import (
    Features,
    NormAndProjection,
    TokenHead,
    at_least_float32,
    precise,
    target_gradient,
)
from legrad_engine.families.openclip_blocks import (
    OpenClipBlock,
    attend,
    finish,
    has_scaled_cosine_attention,
    known_parts,
)
from legrad_engine.legrad import closed_form, rectified_product
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.transfers import index_on, to_device

_POOLS_OF_ONE_TOKEN = ("first", "last", "argmax", "eos")


class TextTower(ABC):
    """A text tower whose tokens have contributions.

    Attributes:
        depth: number of its blocks.
    """

    depth: int

    @abstractmethod
    def contributions(self, tokens: Tensor, layers: Sequence[int], images: Tensor) -> Tensor:
        """Compute the contribution of every token to every cosine.

        For each explained block the sum, over heads and query rows i, of A[i, j] d s / d A[i, j],
        where s is the cosine of the image with the embedding that the model's own norm, pooling and
        projection make of the block's output: the part of the first-order change of s that token j
        brings through this attention. Summed over the blocks. The gradient is that of LeGrad (arXiv
        2404.03214, section 3), in closed form; unlike there it keeps its sign and is weighted by
        the attention. Where one token is pooled, one row i has a gradient.

        Args:
            tokens: ``[T, context]`` token ids, on the host.
            layers: indices of the explained blocks.
            images: ``[P, e]``, unit embeddings of images.

        Returns:
            ``[T, P, context]``, at least float32, on the model's device; 0 for a token that is not
            read, such as the padding behind the end of a causal text.
        """


def text_tower_of(model: nn.Module) -> TextTower:
    """Return the text tower of a model with a text half.

    Raises:
        InvalidTargetError: the tokens of its text half cannot be explained; says why.
    """
    if isinstance(model, CLIP):
        return OpenClipTextTower(model, model.text_pool_type, model.text_eos_id)
    text = getattr(model, "text", None)
    if isinstance(text, TextTransformer):
        pool = "last" if text.cls_emb is not None else text.pool_type
        return OpenClipTextTower(text, pool, text.eos_id)
    if isinstance(text, HFTextEncoder):
        # Imported here, because transformers is an optional package.
        from legrad_engine.words.hugging_face import HuggingFaceTextTower

        return HuggingFaceTextTower(text)
    name = type(model if text is None else text).__name__
    raise InvalidTargetError(
        f"The words of this model have no contributions: its text half is a {name}, and they are "
        "computed for open_clip's own text transformers and for BERT and RoBERTa.",
        field="words",
    )


class OpenClipTextTower(TextTower):
    """open_clip's text transformer, alone or as a part of its CLIP; one token is pooled."""

    def __init__(self, text: CLIP | TextTransformer, pool: str, end_id: int) -> None:
        """Read a text tower without changing it.

        Args:
            text: the module with the embeddings, blocks, last norm and projection.
            pool: kind of pooling, as open_clip names it.
            end_id: id of the end token, for the pooling ``eos``.

        Raises:
            InvalidTargetError: it pools or attends in a way that is not supported.
        """
        if pool not in _POOLS_OF_ONE_TOKEN:
            raise InvalidTargetError(
                f"The words of this model have no contributions: its text half pools by {pool!r}, "
                f"and they are read at one token: {', '.join(_POOLS_OF_ONE_TOKEN)}.",
                field="words",
            )
        self._text = text
        self._blocks: Sequence[OpenClipBlock] = text.transformer.resblocks
        if any(map(has_scaled_cosine_attention, self._blocks)):
            raise InvalidTargetError(
                "The words of this model have no contributions: its text half uses scaled cosine "
                "attention, which open_clip itself cannot run.",
                field="words",
            )
        self.depth = len(self._blocks)
        self._pool = pool
        self._end_id = end_id
        self._head = TokenHead.pooling_first(slice(0, 1), _tail(text))
        self._folded: dict[int, FoldedBlock] = {}

    def contributions(self, tokens: Tensor, layers: Sequence[int], images: Tensor) -> Tensor:
        """See :meth:`TextTower.contributions`."""
        ends = self._ends(tokens)
        device = images.device
        hidden, mask = self._embed(to_device(tokens, device))
        last = index_on(device, ends)
        rows = torch.arange(len(tokens), device=device)
        targets = images.expand(len(tokens), *images.shape)
        total = images.new_zeros(1)
        for index, block in enumerate(self._blocks):
            attention = attend(block, block.ln_1(hidden), mask)
            if index in layers:
                at_end = _of_row(attention, rows, last)
                entering = hidden[rows, last].unsqueeze(1)
                total = total + self._of_block(index, block, entering, at_end, targets)
            hidden = finish(block, hidden, attention.output)
        # An added class token is no token of the text.
        return total[..., : tokens.shape[1]]

    def _of_block(
        self, index: int, block: OpenClipBlock, entering: Tensor, attention: Attention, to: Tensor
    ) -> Tensor:
        """Compute ``[T, P, N]`` from the pooled token's row of a block's input and attention."""
        # Each key's value, weighted by the attention that the pooled token pays to it.
        weighted = attention.weights().transpose(-1, -2) * at_least_float32(attention.values)
        known = known_parts(block)
        if known is None:

            def features(output: Tensor) -> Tensor:
                repeated = entering.repeat_interleave(len(output) // len(entering), 0)
                finished = finish(block, repeated, output.to(repeated.dtype))
                return self._head.features(self._head.state(finished))

            gradient = target_gradient(features, attention.output, to)
            return rectified_product.sum_product(gradient, weighted)
        passed = closed_form.trace_block(
            known, entering, attention, self._head, self._head, last=False
        )
        if index not in self._folded:
            self._folded[index] = FoldedBlock.fold(known)
        trace = replace(passed.trace, values=weighted)
        mean = closed_form.attribute_block(
            self._folded[index], trace, self._head, to, rectified_product.sum_product
        )
        heads, keys = weighted.shape[1:3]
        return mean * (heads * keys)

    def _ends(self, tokens: Tensor) -> list[int]:
        """Return the position of each text's pooled token, as open_clip finds it."""
        if self._pool == "first":
            return [0] * len(tokens)
        if self._pool == "last":
            added = getattr(self._text, "cls_emb", None) is not None
            return [tokens.shape[1] - 1 + added] * len(tokens)
        found = tokens if self._pool == "argmax" else (tokens == self._end_id).int()
        ends: list[int] = found.argmax(-1).tolist()
        return ends

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the first block's input and the attention mask, which broadcasts over heads."""
        text = self._text
        if isinstance(text, CLIP):
            embedded = text.token_embedding(tokens) + text.positional_embedding
            mask = text.attn_mask
        else:
            embedded, mask = text._embeds(tokens)
        if mask is None:
            return embedded, None
        if mask.ndim == 3:
            # One for each text and head.
            mask = mask.view(len(tokens), -1, *mask.shape[1:])
        return embedded, mask.to(embedded.dtype)


def _tail(text: CLIP | TextTransformer) -> Features:
    """Return the map from a pooled token to the features, in float32 at least."""
    projection = text.text_projection
    norm = precise(text.ln_final)
    if not isinstance(projection, nn.Linear):
        weight = None if projection is None else at_least_float32(projection.detach())
        return NormAndProjection(norm, weight)
    linear = precise(projection)

    def project(pooled: Tensor) -> Tensor:
        features: Tensor = linear(norm(pooled))
        return features

    return project


def _of_row(attention: Attention, texts: Tensor, rows: Tensor) -> Attention:
    """Return the attention of one query row of each text."""
    mask = attention.mask
    if mask is not None:
        mask = mask[rows][:, None, None] if mask.ndim == 2 else mask[texts, :, rows].unsqueeze(2)
    output, queries = (
        each[texts, :, rows].unsqueeze(2) for each in (attention.output, attention.queries)
    )
    return replace(attention, output=output, queries=queries, mask=mask)
