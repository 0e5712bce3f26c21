"""The cases: requests made to do harm, and the answers that they may get."""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.attack.bodies import (
    ATTACKER,
    compressed,
    json_bodies,
    look_alikes,
    posted,
    unicode_prompts,
)
from tests.attack.framing import FRAMING, SMUGGLING, got, heads, paths
from tests.attack.tensors import tensors
from tests.support.lying_pictures import LYING
from tests.support.picture_bombs import CODED_LARGER, HARMLESS, SLOW, TOO_LARGE
from tests.support.pictures import encoded, picture

_DEADLINE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Case:
    """One attack: requests, each on a connection of its own, by several callers at once.

    Attributes:
        kind: what is attacked.
        name: name of the case within its kind.
        request: makes the bytes of a request.
        statuses: the statuses of good answers; 0 stands for a closed connection.
        most_seconds: longest time until the answer.
        forbidden: bytes that no answer may have; empty for none.
    """

    kind: str
    name: str
    request: Callable[[], bytes]
    statuses: frozenset[int]
    most_seconds: float = _DEADLINE_SECONDS
    forbidden: bytes = b""


def cases() -> Iterator[Case]:
    """Yield every case."""
    for name, data in TOO_LARGE.items():
        yield _picture("too many pixels", name, data, _413, 2.0)
    for name, data in CODED_LARGER.items():
        yield _picture("coded larger than stated", name, data, _413, 2.0)
    for name, data in LYING.items():
        yield _picture("two sizes", name, data, frozenset({200, 413, 422}), 2.0)
    for name, data in SLOW.items():
        yield _picture("slow to decode", name, data, _422, 2.0)
    for name, make in _LONG_WORK.items():
        # Some are valid, and may be decoded where it takes no longer than the limit.
        yield _picture("slow to decode", name, make, frozenset({200, 413, 422, 429}), 12.0)
    for name, data in HARMLESS.items():
        yield _picture("metadata", name, data, frozenset({200}), 5.0)
    for name, make in look_alikes().items():
        yield Case("multipart", name, make, _400 | _422, 6.0)
    for name, make in json_bodies().items():
        yield Case("JSON", name, make, _400 | _422, 5.0)
    for name, make in unicode_prompts().items():
        yield Case("prompts", name, make, frozenset({200, 422}), 5.0)
    for name, make in tensors().items():
        yield Case("tensors", name, make, frozenset({400, 413, 422}), 5.0)
    for name, (content, coding) in compressed().items():
        request = partial(posted, content, "application/json", f"Content-Encoding: {coding}")
        yield Case("compression", name, request, frozenset({400, 413, 415}), 5.0)
    for name, data in FRAMING.items():
        yield Case("framing", name, partial(bytes, data), frozenset({0, 400, 405}), 5.0)
    for name, data in SMUGGLING.items():
        request = partial(bytes, data)
        yield Case("smuggling", name, request, frozenset({0, 400, 401, 405}), 5.0, _LIVE_ANSWER)
    for name, (make, status) in heads().items():
        yield Case("heads", name, make, frozenset({status}), 2.0)
    for name, data in paths().items():
        yield Case("paths", name, partial(bytes, data), _400 | _404, 2.0, b"root:")
    yield Case("access", "no key", lambda: got(b"/models"), _401, 2.0)
    yield Case("access", "a wrong key", lambda: got(b"/models", "legrad_" + "A" * 43), _401, 2.0)
    yield Case("access", "a scope", lambda: got(b"/metrics", ATTACKER), _403, 2.0)


_400, _401, _403, _404, _413, _422 = (frozenset({each}) for each in (400, 401, 403, 404, 413, 422))
# The answer to the request that is hidden in the body of another one.
_LIVE_ANSWER = b"HTTP/1.1 200"


def form(image: bytes, prompts: bytes = b"a cat") -> bytes:
    """Return an explain request with a picture as a form."""
    content = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % part
        for part in (
            (b"image", b'; filename="a"', image),
            (b"prompts", b"", prompts),
            (b"output", b"", b'{"heatmap": "none", "overlay": false}'),
        )
    )
    return posted(content + b"--x--\r\n", "multipart/form-data; boundary=x")


def _picture(
    kind: str,
    name: str,
    data: bytes | Callable[[], bytes],
    statuses: frozenset[int],
    seconds: float,
) -> Case:
    return Case(kind, name, lambda: form(data() if callable(data) else data), statuses, seconds)


def _run_length_bmp() -> bytes:
    side, head = 6_300, 54 + 1024
    rows = b"\x01\x00\x00\x00" * side + b"\x00\x01"
    return (
        b"BM"
        + struct.pack("<IHHI", head + len(rows), 0, 0, head)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
        + bytes(1024)
        + rows
    )


def _gif_comments() -> bytes:
    plain = encoded(picture(8, 8), "GIF")
    start = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:start] + b"!\xfe" + b"\x01a" * 14_000_000 + b"\0" + plain[start:]


def _jpeg_segments() -> bytes:
    plain = encoded(picture(8, 8), "JPEG")
    return plain[:2] + b"\xff\xfe\x00\x02" * 7_000_000 + plain[2:]


def _png_chunks() -> bytes:
    plain = encoded(picture(8, 8))
    empty = b"\0\0\0\0teXt" + struct.pack(">I", zlib.crc32(b"teXt"))
    return plain[:33] + empty * 2_300_000 + plain[33:]


_LONG_WORK: dict[str, Callable[[], bytes]] = {
    "run-length BMP": _run_length_bmp,
    "GIF of comments": _gif_comments,
    "JPEG of empty segments": _jpeg_segments,
    "PNG of empty chunks": _png_chunks,
    "a million rows": lambda: encoded(picture(1, 1).resize((24, 1_000_000))),
}
