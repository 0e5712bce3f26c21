"""Content negotiation: the media type of an answer, chosen by `Accept` (RFC 9110, 12.5.1)."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from service.errors import NotAcceptableError

_ENTRY = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_PARAMETER = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*"?)+')
# Java writes ".2".
_WEIGHT = re.compile(r"0?\.\d{1,9}|[01]\.?|1\.0{1,9}")
# Old versions of Java write "*" for "*/*".
_ANYTHING = ("*/*", "*")
_PAGE = "text/html"
# Far more than browsers send. It is read on the event loop, before the request has a slot.
_LONGEST = 4096
_MOST_RANGES = 100
# Clients send the same few headers again and again. Longer ones are not worth the memory.
_MOST_KEPT = 256
_LONGEST_KEPT = 256


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
        NotAcceptableError: the client accepts none of them, a weight is not one from 0 to 1, or the
            headers are too long.
    """
    length = sum(map(len, accept))
    if length > _LONGEST:
        raise _too_long()
    return (_choose_again if length <= _LONGEST_KEPT else _choose)(tuple(accept), tuple(offered))


def _choose(accept: tuple[str, ...], offered: tuple[str, ...]) -> str:
    ranges = _read(accept)
    if not ranges:
        return offered[0]
    ranks = {kind: _rank(kind, ranges) for kind in offered}
    asks_for_a_page = _PAGE in ranges

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


_choose_again = lru_cache(_MOST_KEPT)(_choose)


def _too_long() -> NotAcceptableError:
    return NotAcceptableError(
        f"Accept has more than {_LONGEST} characters or {_MOST_RANGES} media ranges: name only the "
        "types that you can read.",
        field="Accept",
    )


def _read(accept: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Return the media ranges of the headers, each with its weight and its earliness.

    Of a range that is there several times, the largest weight counts, then the earliest place.
    """
    ranges: dict[str, tuple[float, int]] = {}
    for position, found in enumerate(_ENTRY.finditer(",".join(accept))):
        if position == _MOST_RANGES:
            raise _too_long()
        entry = found.group()
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
            wanted = (float(weight), -position)
            ranges[kind] = max(wanted, ranges.get(kind, wanted))
    return ranges


def _rank(kind: str, ranges: Mapping[str, tuple[float, int]]) -> _Rank:
    group = f"{kind.partition('/')[0]}/*"
    for precision, matching in ((2, (kind,)), (1, (group,)), (0, _ANYTHING)):
        found = [ranges[each] for each in matching if each in ranges]
        if found:
            weight, earliness = max(found)
            return _Rank(weight, precision, earliness)
    return _Rank(0.0, 0, 0)
