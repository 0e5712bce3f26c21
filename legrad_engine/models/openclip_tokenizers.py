"""Tokenizers of open_clip models: OpenAI's own, or one of Hugging Face."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer

from legrad_engine.errors import ModelLoadError, in_one_line
from legrad_engine.models.hub import Repository
from legrad_engine.targets.text import Tokenizer

_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.tiktoken")
_MOST_SHARED = 4


def tokenizer_of(text: Mapping[str, Any], folder: Path | None = None) -> Tokenizer:
    """Load the tokenizer that open_clip uses with the config of a text half.

    Args:
        text: ``text_cfg`` of a model's config.
        folder: folder of a Hugging Face tokenizer's files, if they are beside the config.

    Raises:
        ModelLoadError: the tokenizer's files cannot be obtained or are invalid.
    """
    context = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = dict(text.get("tokenizer_kwargs", {}))
    hub_name = text.get("hf_tokenizer_name")
    if not hub_name:
        return _shared_tokenizer(context, json.dumps(options))
    if folder is None and Path(hub_name).is_dir():
        folder = Path(hub_name)
    if folder is None:
        folder = Repository(hub_name).folder(_FILES)
    # A config must not enable a tokenizer's own code.
    options["trust_remote_code"] = False
    try:
        tokenizer: Tokenizer = HFTokenizer(
            str(folder),
            context_length=context,
            tokenizer_mode=text.get("tokenizer_mode"),
            **options,
        )
    except Exception as error:
        raise ModelLoadError(
            f"The tokenizer {hub_name!r} could not be loaded ({in_one_line(error)}). If "
            "its files are missing, copy them beside the config, or into the hub's offline cache "
            "(HF_HUB_CACHE).",
            field="model",
        ) from error
    return tokenizer


@lru_cache(_MOST_SHARED)
def _shared_tokenizer(context: int, options: str) -> Tokenizer:
    """Make OpenAI's tokenizer once for all models that use it alike: it takes 20 MB.

    Args:
        context: number of tokens that the text half reads.
        options: JSON object of its other options.
    """
    simple: Tokenizer = open_clip.SimpleTokenizer(context_length=context, **json.loads(options))
    return simple
