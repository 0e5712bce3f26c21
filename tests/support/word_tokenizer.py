"""A small tokenizer in the layout of transformers."""

import json
import string
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


def write_slow_tokenizer(folder: Path) -> None:
    """A tokenizer of letters, of those in Python that remember the words they were given."""
    pytest.importorskip("transformers")
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>", "@@")]
    ids = {token: index for index, token in enumerate(["<unk>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CTRLTokenizer", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
