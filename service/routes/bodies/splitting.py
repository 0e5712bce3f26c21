"""Splitting of multipart bodies (RFC 2046) into parts, in a time linear in their bytes.

The parser of python-multipart compares byte by byte wherever a body looks like a boundary, which
takes 12 s for 30 MB of such look-alikes. Only its parser of single headers is used here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service.routes.bodies.remembering import remember_short

_MOST_HEADERS = 8
_LONGEST_HEADER = 4096
# A content must not have its boundary (RFC 2046, 5.1.1); each one that goes on costs a step.
_MOST_LOOK_ALIKES = 1000
_LINE_ENDS = re.compile(rb"(?:\r\n){0,8}")
# Of the line of a boundary: two more dashes follow the last one.
_LINE_END = re.compile(rb"(--)|[ \t]*\r\n")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class BodyPart:
    """One part of a body.

    Attributes:
        head: its headers, for :func:`read_head`.
        start: where its content starts in the body.
        stop: where its content stops.
    """

    head: bytes
    start: int
    stop: int


def split_parts(body: bytes, boundary: bytes) -> Iterator[BodyPart]:
    """Yield the parts of a body, each once its headers are checked.

    Args:
        body: the whole body.
        boundary: the parameter of its content type.

    Raises:
        ValueError: the body is not multipart, or is cut off; a part has too many or too long
            headers, or one twice. Raised when the iteration reaches the mistake.
    """
    delimiter = b"\r\n--" + boundary
    # Line ends may be before the first one, which then needs none of its own.
    opening = _LINE_ENDS.match(body)
    begin = 0 if opening is None else opening.end()
    ends = _LINE_END.match(body, begin + len(delimiter) - 2)
    if ends is None or not body.startswith(delimiter[2:], begin):
        raise ValueError("it does not begin with the boundary of its content type")
    while not ends[1]:
        head = _head(body, ends.end())
        # Refuses bad headers before the content is searched.
        read_head(head)
        start = ends.end() + len(head) + 2
        stop, ends = _find(body, delimiter, start)
        yield BodyPart(head, start, stop)


def _find(body: bytes, delimiter: bytes, start: int) -> tuple[int, re.Match[bytes]]:
    """Return the place of the next boundary, and the end of its line."""
    for _ in range(_MOST_LOOK_ALIKES):
        place = body.find(delimiter, start)
        if place < 0:
            raise ValueError("it ends before its last boundary")
        start = place + len(delimiter)
        ends = _LINE_END.match(body, start)
        if ends is not None:
            return place, ends
    raise ValueError("a content has its boundary: choose another boundary")


def _head(body: bytes, start: int) -> bytes:
    """Return the headers of a part, without the empty line behind them."""
    line = start
    for _ in range(_MOST_HEADERS + 1):
        end = body.find(b"\r\n", line, line + _LONGEST_HEADER + 2)
        if end < 0:
            raise ValueError(
                f"a part has a header of more than {_LONGEST_HEADER} bytes"
                if len(body) - line > _LONGEST_HEADER
                else "it ends within the headers of a part"
            )
        if end == line:
            return body[start:line]
        line = end + 2
    raise ValueError(f"a part has more than {_MOST_HEADERS} headers")


@remember_short
def read_head(head: bytes) -> Mapping[bytes, bytes]:
    """Return the headers of a part by name in lower case.

    Args:
        head: their lines, each with its end.

    Raises:
        ValueError: a line is no header, or a header is there twice.
    """
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or _NAME.fullmatch(name) is None:
            raise ValueError("a part has a line that is no header")
        if name in headers:
            raise ValueError(f"a part has the header {name.decode()} twice")
        headers[name] = value.strip(b" \t")
    return headers
