"""Text halves that open_clip takes from transformers: BERT, RoBERTa and XLM-RoBERTa.

Their blocks end in a norm and their poolers differ, so their own code runs with gradients behind
the output of each explained attention, as :mod:`legrad_engine.legrad.general` does for images.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.hf_model import ClsPooler, HFTextEncoder, MaxPooler
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.modeling_outputs import BaseModelOutput

from legrad_engine.errors import InvalidTargetError
from legrad_engine.families.attention import Attention, run_observed
from legrad_engine.families.heads import at_least_float32
from legrad_engine.transfers import to_device
from legrad_engine.words.towers import TextTower

_EXPLAINED = ("bert", "roberta", "xlm-roberta")


class HuggingFaceTextTower(TextTower):
    """An encoder of transformers with open_clip's pooler and projection."""

    def __init__(self, text: HFTextEncoder) -> None:
        """Read a text half without changing it.

        Raises:
            InvalidTargetError: the blocks' outputs do not have embeddings of their own.
        """
        kind = text.config.model_type
        if kind not in _EXPLAINED:
            raise InvalidTargetError(
                "The words of this model have no contributions: its text half is of the type "
                f"{kind!r}, and of those from transformers {', '.join(_EXPLAINED)} have them.",
                field="words",
            )
        if isinstance(text.pooler, MaxPooler):
            raise InvalidTargetError(
                "The words of this model have no contributions: its text half takes the maximum "
                "over its tokens, so each of its numbers may be of another token.",
                field="words",
            )
        self._text = text
        self.depth = text.config.num_hidden_layers

    def contributions(self, tokens: Tensor, layers: Sequence[int], images: Tensor) -> Tensor:
        """See :meth:`TextTower.contributions`."""
        text = self._text
        ids = to_device(tokens, images.device)
        mask = (ids != text.config.pad_token_id).long()
        mode = _Leaves(layers)
        with torch.enable_grad():
            with mode:
                out = text.transformer(
                    input_ids=ids, attention_mask=mask, output_hidden_states=True
                )
            if mode.calls != self.depth:
                raise InvalidTargetError(
                    "The words of this model have no contributions: its text half does not call "
                    "PyTorch's fused attention once in each block.",
                    field="words",
                )
            total = images.new_zeros(1)
            for index in layers:
                features = self._features(out.hidden_states[index + 1], mask)
                cosines = (
                    F.normalize(at_least_float32(features), dim=-1) @ at_least_float32(images).T
                )
                leaf, attention = mode.found[index]
                gradients = [
                    torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0]
                    for each in cosines.T
                ]
                along = torch.einsum(
                    "bphid,bhjd->bphij",
                    at_least_float32(torch.stack(gradients, 1)),
                    at_least_float32(attention.values),
                )
                total = total + (along * attention.weights().unsqueeze(1)).sum((2, 3))
        return total.detach()

    def _features(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the features that the model makes of a block's output."""
        text = self._text
        pooler = text.pooler
        own = getattr(text.transformer, "pooler", None)
        if isinstance(pooler, ClsPooler) and pooler.use_pooler_output and own is not None:
            pooled = own(hidden)
        else:
            pooled = pooler(BaseModelOutput(last_hidden_state=hidden), mask)
        features: Tensor = text.proj(pooled)
        return features


class _Leaves(TorchFunctionMode):
    """Makes leaves of the outputs of some attentions, counted in the order of their calls."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self._layers = frozenset(layers)
        self.calls = 0
        self.found: dict[int, tuple[Tensor, Attention]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        def run() -> Tensor:
            result: Tensor = func(*args, **(kwargs or {}))
            return result

        if func is not F.scaled_dot_product_attention:
            return run()
        index = self.calls
        self.calls += 1
        if index not in self._layers:
            return run()
        with torch.no_grad():
            attention, result = run_observed(run)
        leaf = result.requires_grad_()
        self.found[index] = leaf, attention
        return leaf
