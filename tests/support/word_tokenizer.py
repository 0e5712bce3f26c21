"""A small tokenizer in the layout of transformers."""

from pathlib import Path

import pytest

WORDS = ["<pad>", "</s>", "<unk>", "a", "cat", "on", "the", "sofa", "red"]


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer that ends every text with a special token, as SigLIP's does."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, "<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
