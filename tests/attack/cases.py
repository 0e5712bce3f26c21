"""The cases: requests made to do harm, and the answers that they may get."""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.attack.bodies import ATTACKER, json_bodies, look_alikes, posted
from tests.support.picture_bombs import CODED_LARGER, HARMLESS, SLOW, TOO_LARGE
from tests.support.pictures import encoded, picture
from tests.support.raw_requests import LIVE

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
    """

    kind: str
    name: str
    request: Callable[[], bytes]
    statuses: frozenset[int]
    most_seconds: float = _DEADLINE_SECONDS


def cases() -> Iterator[Case]:
    """Yield every case."""
    refused = frozenset({422})
    for name, data in TOO_LARGE.items():
        yield _picture("too many pixels", name, data, refused, 2.0)
    for name, data in CODED_LARGER.items():
        yield _picture("coded larger than stated", name, data, refused, 2.0)
    for name, data in SLOW.items():
        yield _picture("slow to decode", name, data, refused, 2.0)
    for name, make in _LONG_WORK.items():
        # Some are valid, and may be decoded where it takes no longer than the limit.
        yield _picture("slow to decode", name, make, frozenset({200, 413, 422, 429}), 12.0)
    for name, data in HARMLESS.items():
        yield _picture("metadata", name, data, frozenset({200}), 5.0)
    for name, make in look_alikes().items():
        yield Case("multipart", name, make, frozenset({400, 422}), 5.0)
    for name, make in json_bodies().items():
        yield Case("JSON", name, make, frozenset({400, 422}), 5.0)
    yield Case("gzip", "a bomb", lambda: _compressed(gzip.compress(bytes(200_000_000), 9)), _413)
    yield Case(
        "gzip", "empty members", lambda: _compressed(gzip.compress(b"") * 100_000), frozenset({400})
    )
    for name, data in _FRAMING.items():
        yield Case("framing", name, partial(bytes, data), frozenset({0, 400}), 5.0)
    yield Case("paths", "a last slash", lambda: _get(b"/metrics/"), frozenset({404}), 2.0)
    yield Case("paths", "traversal", lambda: _get(b"/web/../../etc/passwd"), frozenset({404}), 2.0)
    yield Case("paths", "encoded traversal", lambda: _get(b"/web/%2e%2e%2fapp.py"), _404, 2.0)
    yield Case("access", "no key", lambda: _get(b"/models"), frozenset({401}), 2.0)
    yield Case("access", "a wrong key", lambda: _get(b"/models", "legrad_" + "A" * 43), _401, 2.0)
    yield Case("access", "a scope", lambda: _get(b"/metrics", ATTACKER), frozenset({403}), 2.0)


_401, _404, _413 = frozenset({401}), frozenset({404}), frozenset({413})


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


def _get(path: bytes, key: str | None = None) -> bytes:
    credentials = b"" if key is None else f"Authorization: Bearer {key}\r\n".encode()
    return b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n" % (path, credentials)


def _compressed(content: bytes) -> bytes:
    return posted(content, "application/json", "Content-Encoding: gzip")


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

_FRAMING = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "a negative length": b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a bad chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "a length and chunks": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a long head": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
    "no host": LIVE.replace(b"Host: a\r\n", b""),
    "two hosts": LIVE.replace(b"Host: a\r\n", b"Host: a\r\nHost: b\r\n"),
}
