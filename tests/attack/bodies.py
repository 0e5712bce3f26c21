"""Bodies made to be slow to parse: look-alikes of boundaries, and JSON."""

import gzip
import json
import zlib
from collections.abc import Callable
from functools import partial

from tests.support.api_keys import bearer
from tests.support.pictures import request_of

ATTACKER = "the key of the attacker"
_LARGE = 30_000_000
_BEGIN = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


def posted(content: bytes, content_type: str, *headers: str, path: str = "/explain") -> bytes:
    """Return a request of the attacker, after which the server closes the connection."""
    lines = [
        f"POST {path} HTTP/1.1",
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


def unicode_prompts() -> dict[str, Callable[[], bytes]]:
    """Return makers of valid requests whose prompts are made to cost a tokenizer much, by name."""
    prompts = {
        "a prompt of marks": "a" + "\u0301" * 250,
        "a prompt of ligatures": "\ufdfa" * 250,
        "a prompt of directions": "\u202e" * 250,
        "a prompt of apostrophes": "'" * 250,
        "a prompt of entities": "&amp;" * 50,
    }
    return {name: partial(_json, partial(_about, text)) for name, text in prompts.items()}


def compressed() -> dict[str, tuple[bytes, str]]:
    """Return compressed bodies that unpack to much, or for long, with their codings, by name."""
    zeros = bytes(200_000_000)
    return {
        "a gzip bomb": (gzip.compress(zeros, 9), "gzip"),
        "a deflate bomb": (zlib.compress(zeros, 9), "deflate"),
        "empty members": (gzip.compress(b"") * 100_000, "gzip"),
        "empty blocks": (zlib.compress(b"")[:2] + b"\0\0\0\xff\xff" * 5_000_000, "deflate"),
        "a bomb within a bomb": (gzip.compress(gzip.compress(zeros, 9), 9), "gzip, gzip"),
        "another coding": (b"{}", "br"),
        "a cut body": (gzip.compress(b"{}")[:-5], "gzip"),
    }


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
        "deep in an option": lambda: (
            b'{"image":"a","prompts":["a"],"options":{"layers":'
            + b"[" * 100_000
            + b"]" * 100_000
            + b"}}"
        ),
        "an exponent": lambda: b'{"image":"a","prompts":["a"],"output":{"alpha":1e999999999}}',
        "numbers that are none": lambda: b'{"image":"a","prompts":["a"],"output":{"alpha":NaN}}',
        "a key twice": lambda: b'{"image":"a","prompts":["a"],"prompts":["b"]}',
        "a key twice, escaped": lambda: b'{"image":"a","prompts":["a"],"prompt\\u0073":["b"]}',
        "half a surrogate pair": lambda: b'{"image":"a","prompts":["\\ud800"]}',
        "a zero character": lambda: b'{"image":"a","prompts":["\\u0000"],"\\u0000":1}',
        "beyond UTF-8": lambda: b'{"image":"a","prompts":["\xed\xa0\x80\xc0\xaf"]}',
        "UTF-16": lambda: '{"image":"a","prompts":["a"]}'.encode("utf-16"),
        "two documents": lambda: b'{"image":"a","prompts":["a"]}{}',
        "wrong values": lambda: b'{"image":"a","prompts":[' + b",".join([b"1"] * 99_000) + b"]}",
    }
    return {name: partial(_json, make) for name, make in bodies.items()}


def _about(prompt: str) -> bytes:
    quiet = {"heatmap": "none", "overlay": False}
    return json.dumps(request_of(prompts=[prompt], output=quiet)).encode()


def _filled(filling: bytes) -> bytes:
    body = _BEGIN + filling * (_LARGE // len(filling)) + b"\r\n--x--\r\n"
    return posted(body, "multipart/form-data; boundary=x")


def _json(make: Callable[[], bytes]) -> bytes:
    return posted(make(), "application/json")
