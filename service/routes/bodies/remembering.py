"""Results for short inputs, kept: callers send the same few headers and options again and again."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

_Text = TypeVar("_Text", bytes, str, bytes | str)
_Read = TypeVar("_Read")

# Longer ones are rare, and not worth the memory.
_LONGEST = 256
_MOST = 256


def remember_short(read: Callable[[_Text], _Read]) -> Callable[[_Text], _Read]:
    """Decorate a function of a text to keep its recent results for short ones.

    Nobody may change a result. An error is not kept.
    """
    again = lru_cache(_MOST)(read)

    @wraps(read)
    def read_or_remember(text: _Text) -> _Read:
        return again(text) if len(text) <= _LONGEST else read(text)

    return read_or_remember
