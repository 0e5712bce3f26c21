"""Tokenizers of open_clip models: those of one kind share one object, others do not."""

import open_clip
import pytest
import torch

from legrad_engine.models.openclip_tokenizers import tokenizer_of


@pytest.mark.parametrize(
    "text", [{}, {"context_length": 20}, {"tokenizer_kwargs": {"clean": "whitespace"}}], ids=repr
)
def test_it_reads_as_open_clip_s_own(text: dict[str, object]) -> None:
    options: dict[str, object] = {**text, **text.get("tokenizer_kwargs", {})}  # type: ignore[dict-item]
    options.pop("tokenizer_kwargs", None)
    own = open_clip.SimpleTokenizer(**options)
    assert torch.equal(tokenizer_of(text)(["A  Cat&amp;dog"]), own(["A  Cat&amp;dog"]))


def test_models_share_a_tokenizer_unless_they_use_it_differently() -> None:
    assert tokenizer_of({"width": 1}) is tokenizer_of({"width": 2})
    assert tokenizer_of({"context_length": 20}) is not tokenizer_of({})
    assert tokenizer_of({"tokenizer_kwargs": {"clean": "whitespace"}}) is not tokenizer_of({})
