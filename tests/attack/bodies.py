"""Bodies made to be slow to parse: look-alikes of boundaries, and JSON."""

from collections.abc import Callable
from functools import partial

from tests.support.api_keys import bearer

ATTACKER = "the key of the attacker"
_LARGE = 30_000_000
_BEGIN = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


def posted(content: bytes, content_type: str, *headers: str) -> bytes:
    """Return an explain request of the attacker, after which the server closes."""
    lines = [
        "POST /explain HTTP/1.1",
        "Host: a",
        "Connection: close",
        *(f"{name}: {value}" for name, value in bearer(ATTACKER).items()),
        f"Content-Type: {content_type}",
        *headers,
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def look_alikes() -> dict[str, Callable[[], bytes]]:
    """Return makers of requests whose bodies are almost boundaries, by name."""
    fillings = {
        "line ends": b"\r\n",
        "dashes": b"\r\n--",
        "boundaries and a letter": b"\r\n--xy",
        "boundaries and a dash": b"\r\n--x-",
    }
    return {name: partial(_filled, filling) for name, filling in fillings.items()}


def json_bodies() -> dict[str, Callable[[], bytes]]:
    """Return makers of requests with JSON that is slow to read, by name."""
    bodies: dict[str, Callable[[], bytes]] = {
        "deep lists": lambda: b'{"prompts":' + b"[" * _LARGE,
        "deep objects": lambda: b'{"a":' * (_LARGE // 5),
        "a long number": lambda: b'{"options":{"size":' + b"1" * _LARGE + b"}}",
        "a million keys": lambda: (
            b"{" + b",".join(b'"%d":1' % number for number in range(1_000_000)) + b"}"
        ),
        "long keys": lambda: (
            b"{" + b",".join(b'"%s%d":1' % (b"x" * 300, n) for n in range(90_000)) + b"}"
        ),
        "wrong values": lambda: b'{"image":"a","prompts":[' + b",".join([b"1"] * 99_000) + b"]}",
    }
    return {name: partial(_json, make) for name, make in bodies.items()}


def _filled(filling: bytes) -> bytes:
    body = _BEGIN + filling * (_LARGE // len(filling)) + b"\r\n--x--\r\n"
    return posted(body, "multipart/form-data; boundary=x")


def _json(make: Callable[[], bytes]) -> bytes:
    return posted(make(), "application/json")
