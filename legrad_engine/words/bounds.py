"""Tokens that begin or end texts, where they occur within a text."""

from typing import Any

from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

from legrad_engine.words.places import cleaned_by

_BOUNDS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")


def bound_in(tokenizer: object, text: str) -> str | None:
    """Return the first token in a text that begins or ends texts, as it is spelled; None without.

    Text towers read a text up to such a token, and open_clip's tokenizers make one of its spelling.

    Args:
        tokenizer: open_clip's tokenizer of the model.
        text: the text, as typed.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        bounds = set(tokenizer.all_special_ids)
        found = next((each for each in tokenizer.encode(text) if each in bounds), None)
        return None if found is None else str(tokenizer.decoder[found])
    if isinstance(tokenizer, (HFTokenizer, SigLipTokenizer)):
        inner: Any = tokenizer.tokenizer
        bounds = {getattr(inner, name, None) for name in _BOUNDS} - {None}
        cleaned = cleaned_by(tokenizer, text)
        ids = inner(cleaned, add_special_tokens=False)["input_ids"]
        spelled = (str(inner.convert_ids_to_tokens(each)) for each in ids if each in bounds)
        # Of some tokenizers, one of them also stands for unknown characters.
        return next((each for each in spelled if each in cleaned), None)
    return None
