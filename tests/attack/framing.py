"""Requests whose framing is wrong or ambiguous, paths, and heads made to be long."""

from collections.abc import Callable
from functools import partial

from tests.attack.bodies import ATTACKER, posted
from tests.support.api_keys import bearer
from tests.support.raw_requests import LIVE

_HEAD = b"POST /health/live HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
# A request that a front end could take for a part of a body, and the server for a request.
_HIDDEN = LIVE
# The server reads heads of 0.3 MB, and targets of 64 kB.
_LONG_HEADER, _LONG_TARGET = 200_000, 60_000

# A front end and the server could disagree on the end of these; none may get a second answer.
SMUGGLING: dict[str, bytes] = {
    "a length and chunks": _HEAD + b"Content-Length: 6\r\n" + _CHUNKED + b"\r\n0\r\n\r\n" + _HIDDEN,
    "chunks and a length": _HEAD + _CHUNKED + b"Content-Length: 6\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "two lengths": _HEAD + b"Content-Length: 0\r\nContent-Length: 34\r\n\r\n" + _HIDDEN,
    "a list of lengths": _HEAD + b"Content-Length: 0, 34\r\n\r\n" + _HIDDEN,
    "a length with a sign": _HEAD + b"Content-Length: +0\r\n\r\n" + _HIDDEN,
    "a length in hexadecimal": _HEAD + b"Content-Length: 0x0\r\n\r\n" + _HIDDEN,
    "a negative length": _HEAD + b"Content-Length: -1\r\n\r\n" + _HIDDEN,
    "a length beyond 64 bits": _HEAD + b"Content-Length: 18446744073709551617\r\n\r\n" + _HIDDEN,
    "a space before the colon": _HEAD + b"Content-Length : 34\r\n\r\n" + _HIDDEN,
    "a folded header": _HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "an unknown coding": _HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "chunks that are not last": (
        _HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _HIDDEN
    ),
    "a bad chunk size": _HEAD + _CHUNKED + b"\r\nZZ\r\n\r\n" + _HIDDEN,
    "a negative chunk size": _HEAD + _CHUNKED + b"\r\n-1\r\n\r\n" + _HIDDEN,
    "a chunk size beyond 64 bits": _HEAD + _CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n" + _HIDDEN,
    "a chunk longer than its size": _HEAD + _CHUNKED + b"\r\n1\r\nabc\r\n0\r\n\r\n" + _HIDDEN,
    "a bare line end in a head": b"POST / HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n" + _HIDDEN,
    "a zero byte in a header": _HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n" + _HIDDEN,
}

FRAMING: dict[str, bytes] = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "no host": LIVE.replace(b"Host: a\r\n", b""),
    "two hosts": LIVE.replace(b"Host: a\r\n", b"Host: a\r\nHost: b\r\n"),
    "a long target": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": LIVE[:-2] + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many headers": LIVE[:-2] + b"X: a\r\n" * 200_000 + b"\r\n",
    "many trailers": _HEAD + _CHUNKED + b"\r\n0\r\n" + b"X: a\r\n" * 200_000 + b"\r\n",
    "long extensions of chunks": _HEAD + _CHUNKED + b"\r\n" + b"1;" + b"a" * 1_000_000 + b"\r\n",
}

_PATHS: dict[str, bytes] = {
    "a last slash": b"/metrics/",
    "page": b"/web/../../etc/passwd",
    "page, encoded": b"/web/%2e%2e%2fapp.py",
    "page, encoded twice": b"/web/%252e%252e%252fapp.py",
    "page, backslashes": b"/web/..%5c..%5capp.py",
    "page, a zero byte": b"/web/index.html%00.png",
    "page, beyond UTF-8": b"/web/%c0%ae%c0%ae/app.py",
    "pictures of the page": b"/web/gallery/../../../settings/values.py",
    "documentation": b"/docs/../../pyproject.toml",
    "documentation, encoded": b"/docs/%2e%2e/%2e%2e/pyproject.toml",
    "a model": b"/models/..%2f..%2fetc%2fpasswd",
    "a model's labels": b"/models/%2e%2e/%2e%2e/etc/passwd/classes",
    "an absolute target": b"http://127.0.0.1/etc/passwd",
}


def paths() -> dict[str, bytes]:
    """Return requests for files outside the served ones, by name."""
    return {name: got(path, ATTACKER) for name, path in _PATHS.items()}


def heads() -> dict[str, tuple[Callable[[], bytes], int]]:
    """Return makers of requests whose heads are slow to read, with their statuses, by name."""
    empty = partial(posted, b"{}")
    return {
        "media ranges": (
            partial(empty, "application/json", "Accept: " + "*," * (_LONG_HEADER // 2)),
            406,
        ),
        "parameters of a type": (partial(empty, ";" * _LONG_HEADER), 400),
        "an encoded path": (partial(got, b"/v2/models/" + b"%2f" * (_LONG_TARGET // 3)), 414),
        "parameters": (partial(got, b"/models?" + b"a&" * (_LONG_TARGET // 2), ATTACKER), 422),
    }


def got(path: bytes, key: str | None = None) -> bytes:
    """Return a GET request, after which the server closes the connection."""
    credentials = {} if key is None else bearer(key)
    lines = "".join(f"{name}: {value}\r\n" for name, value in credentials.items()).encode()
    return b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n" % (path, lines)
