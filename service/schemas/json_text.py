"""JSON text as it arrives: its byte order mark, and members that appear twice."""

import codecs
import json


def without_mark(text: bytes) -> bytes:
    """Return JSON in UTF-8 without the byte order mark that some programs write before it."""
    return text.removeprefix(codecs.BOM_UTF8)


def repeated_member(text: bytes | str) -> tuple[str | int, ...] | None:
    """Return the path of an object member whose name appears twice; None without one.

    Parsers keep only the last of two such members, without a word.

    Args:
        text: valid JSON, in UTF-8 if it is bytes, without a byte order mark.
    """
    repeats = False

    def members(pairs: list[tuple[str, object]]) -> "_Members":
        nonlocal repeats
        repeats = repeats or len(dict(pairs)) < len(pairs)
        return _Members(pairs)

    # Numbers stay text: their values do not matter, and long ones are slow to convert.
    parsed = json.loads(text, object_pairs_hook=members, parse_int=str, parse_float=str)
    return _first_repeated(parsed) if repeats else None


class _Members(list[tuple[str, object]]):
    """The members of an object, repeated ones included."""


def _first_repeated(value: object) -> tuple[str | int, ...] | None:
    children: list[tuple[str | int, object]] = []
    if isinstance(value, _Members):
        seen: set[str] = set()
        for name, _ in value:
            if name in seen:
                return (name,)
            seen.add(name)
        children.extend(value)
    elif isinstance(value, list):
        children.extend(enumerate(value))
    for key, child in children:
        found = _first_repeated(child)
        if found is not None:
            return (key, *found)
    return None
