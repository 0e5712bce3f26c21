"""Content negotiation: the media type of an answer, chosen by `Accept` (RFC 9110, 12.5.1)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from service.errors import NotAcceptableError

_ENTRY = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_PARAMETER = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*"?)+')
# Java writes ".2".
_WEIGHT = re.compile(r"0?\.\d{1,9}|[01]\.?|1\.0{1,9}")
# Old versions of Java write "*" for "*/*".
_ANYTHING = ("*/*", "*")
_PAGE = "text/html"


class _Rank(NamedTuple):
    """How much a client wants a media type; the largest is answered."""

    weight: float
    precision: int
    earliness: int


def choose(accept: Sequence[str], offered: Sequence[str]) -> str:
    """Return the offered media type that the client prefers.

    The weight of a type is that of the most precise range that matches it. Of types with equal
    weights, the one that is named more precisely wins, then the one that is named earlier.

    Browsers and Java list the images that they can show beside ``text/html``, whatever they ask
    for; such a client gets an image only if it accepts no other type.

    Args:
        accept: values of all ``Accept`` headers of the request.
        offered: the media types that the route can answer, the default one first.

    Raises:
        NotAcceptableError: the client accepts none of them, or a weight is not one from 0 to 1.
    """
    ranges = _read(accept)
    if not ranges:
        return offered[0]
    ranks = {kind: _rank(kind, ranges) for kind in offered}
    asks_for_a_page = any(kind == _PAGE for kind, _ in ranges)

    def preference(kind: str) -> tuple[bool, _Rank]:
        is_listed = asks_for_a_page and kind.startswith("image/")
        return ranks[kind].weight > 0 and not is_listed, ranks[kind]

    # The first of equal ones.
    best = max(offered, key=preference)
    if not ranks[best].weight:
        raise NotAcceptableError(
            f"Answers are {', '.join(offered[:-1])} or {offered[-1]}, not {', '.join(accept)!r}.",
            field="Accept",
        )
    return best


def _read(accept: Sequence[str]) -> list[tuple[str, float]]:
    """Return the media ranges of the headers, each with its weight, in order."""
    ranges = []
    for entry in _ENTRY.findall(",".join(accept)):
        parts = [part.strip().lower() for part in _PARAMETER.findall(entry)]
        kind, parameters = "".join(parts[:1]), parts[1:]
        weights = [
            value.strip()
            for name, _, value in (parameter.partition("=") for parameter in parameters)
            if name.strip() == "q"
        ]
        weight = weights[0] if weights else "1"
        if not _WEIGHT.fullmatch(weight):
            raise NotAcceptableError(
                f"The weight of {kind!r} should be a number from 0 to 1, such as q=0.5, not "
                f"{weight!r}.",
                field="Accept",
            )
        if kind:
            ranges.append((kind, float(weight)))
    return ranges


def _rank(kind: str, ranges: Sequence[tuple[str, float]]) -> _Rank:
    group = f"{kind.partition('/')[0]}/*"
    for precision, matching in ((2, (kind,)), (1, (group,)), (0, _ANYTHING)):
        found = [
            _Rank(weight, precision, -position)
            for position, (each, weight) in enumerate(ranges)
            if each in matching
        ]
        if found:
            return max(found)
    return _Rank(0.0, 0, 0)
