"""Tokens that begin or end texts, where they occur within a text."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

from legrad_engine.words.places import cleaned_by

_BOUNDS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")


def bound_in(tokenizer: object, text: str) -> str | None:
    """Return a token in a text that begins or ends texts, as it is spelled; None without one.

    Text towers read a text up to such a token, and open_clip's tokenizers make one of its spelling.

    Args:
        tokenizer: open_clip's tokenizer of the model.
        text: the text, as typed.
    """
    if not isinstance(tokenizer, (SimpleTokenizer, HFTokenizer, SigLipTokenizer)):
        return None
    cleaned = cleaned_by(tokenizer, text)
    tokens: Callable[[], Sequence[int]]
    if isinstance(tokenizer, SimpleTokenizer):
        bounds = {str(tokenizer.decoder[each]): each for each in tokenizer.all_special_ids}
        tokens = partial(tokenizer.encode, text)
    else:
        inner: Any = tokenizer.tokenizer
        ids = {getattr(inner, name, None) for name in _BOUNDS} - {None}
        bounds = {str(inner.convert_ids_to_tokens(each)): each for each in ids}
        tokens = partial(inner.encode, cleaned, add_special_tokens=False)
    spelled = [each for each in bounds if each in cleaned]
    # Hardly any text gets here. Beside other characters, a spelling need not be a token.
    return next((each for each in spelled if bounds[each] in tokens()), None)
