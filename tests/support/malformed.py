"""Malformed requests, reproducible by seed, as bytes on a connection."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.picture_bombs import CODED_LARGER, TOO_LARGE
from tests.support.pictures import base64_of, data_url, encoded, picture, request_of

_KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")
_PICTURES = {kind: encoded(picture(24, 20), kind) for kind in _KINDS}
# Small bombs only: the cost of large ones has a test of its own.
_BOMBS = [data for data in (*TOO_LARGE.values(), *CODED_LARGER.values()) if len(data) < 20_000]
_JUNK: list[Any] = [
    None, True, -1, 0, 1e400, float("nan"), 10**40, "", "x" * 300, "\0", [], {}, [None],
    [[]], {"a": 1},
    {"url": "http://127.0.0.1/"}, {"b64": 3}, "data:image/png;base64,", "猫",
]  # fmt: skip
_FIELDS = (
    "image", "images", "prompts", "targets", "model", "options", "output", "surprise",
)  # fmt: skip
_OPTIONS = (
    "method",
    "heads",
    "layers",
    "score",
    "size",
    "fit",
    "templates",
    "negatives",
    "cache",
    "surprise",
)
_OUTPUTS = (
    "heatmap", "overlay", "colormap", "alpha", "normalize", "regions_threshold", "max_side",
)  # fmt: skip


@dataclass(frozen=True)
class Malformed:
    """The bytes to send, and whether to leave without reading the answer."""

    kind: str
    data: bytes
    leaves: bool


def malformed(count: int, seed: int) -> Iterator[Malformed]:
    """Yield so many requests, the same ones for the same seed."""
    chance = random.Random(seed)
    kinds: list[Callable[[random.Random], bytes]] = [
        _wrong_types, _cut_json, _odd_json, _bad_base64, _corrupt_picture, _corrupt_picture, _bomb,
        _bad_multipart, _cut_multipart, _bad_headers, _wrong_route, _no_http, _bad_chunks,
        _wrong_length, _oversize, _compressed,
    ]  # fmt: skip
    for _ in range(count):
        kind = chance.choice(kinds)
        data = kind(chance)
        leaves = chance.random() < 0.15
        if leaves:
            data = data[: chance.randrange(len(data) + 1)]
        yield Malformed(kind.__name__, data, leaves)


def _request(
    content: bytes,
    content_type: str = "application/json",
    line: str = "POST /explain HTTP/1.1",
    *headers: str,
) -> bytes:
    head = [line, "Host: a", "Connection: close", f"Content-Type: {content_type}"]
    head += [*headers, f"Content-Length: {len(content)}"]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + content


def _json(body: Any) -> bytes:
    return _request(json.dumps(body).encode())


def _wrong_types(chance: random.Random) -> bytes:
    body = request_of()
    junk = chance.choice(_JUNK)
    place = chance.random()
    if place < 0.4:
        # As a prompt, this text would make the request a valid one.
        body[chance.choice(_FIELDS)] = junk if junk != "猫" else 7
    elif place < 0.7:
        body["options"] = {chance.choice(_OPTIONS): junk}
    else:
        body["output"] = {chance.choice(_OUTPUTS): junk}
    return _json(body)


def _cut_json(chance: random.Random) -> bytes:
    content = json.dumps(request_of()).encode()
    return _request(content[: chance.randrange(len(content))])


def _odd_json(chance: random.Random) -> bytes:
    depth = chance.randrange(1, 3000)
    choices = [
        b"[" * depth, b'{"image":' * depth, b"null", b"3", b'"a"', b"\xff\xfe{", b"{}" * 3, b"",
        b'{"image": "\\ud800", "prompts": ["a"]}', b'{"prompts": [' + b"1," * depth + b"1]}",
        json.dumps(request_of()).encode("utf-16"), bytes(chance.randrange(256) for _ in range(99)),
    ]  # fmt: skip
    return _request(chance.choice(choices))


def _bad_base64(chance: random.Random) -> bytes:
    text = list(base64_of(_PICTURES["PNG"]))
    for _ in range(chance.randrange(1, 5)):
        text[chance.randrange(len(text))] = chance.choice("!é-_\0, ")
    prefix = chance.choice(["", "data:image/png;base64,", "data:,", "data:image/png,", "http://"])
    return _json(request_of(image=prefix + "".join(text)))


def _corrupt_picture(chance: random.Random) -> bytes:
    data = bytearray(_PICTURES[chance.choice(_KINDS)])
    if chance.random() < 0.4:
        del data[chance.randrange(len(data)) :]
    for _ in range(chance.randrange(0, 12)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    return _json(request_of(image=data_url(bytes(data)), output={"heatmap": "none"}))


def _bomb(chance: random.Random) -> bytes:
    return _json(request_of(image=data_url(chance.choice(_BOMBS))))


def _parts(chance: random.Random) -> bytes:
    parts = []
    for _ in range(chance.randrange(0, 8)):
        name = chance.choice(["image", "prompts", "options", "output", "x" * 500, "\xff", ""])
        disposition = f'form-data; name="{name}"'
        if chance.random() < 0.4:
            disposition += '; filename="a"'
        header = chance.choice(["Content-Disposition", "Content-Disposition", "X", "X" * 5000])
        content = chance.choice([b"a cat", b"{", b"", b"\r\n--x", b"\xff" * 50, _PICTURES["PNG"]])
        parts.append(f"--x\r\n{header}: {disposition}\r\n\r\n".encode("latin-1") + content)
    return b"\r\n".join(parts) + chance.choice([b"\r\n--x--\r\n", b"\r\n--x", b"", b"--y--"])


def _bad_multipart(chance: random.Random) -> bytes:
    boundary = chance.choice(["; boundary=x", "; boundary=y", "", "; boundary=", "; charset=idna"])
    return _request(_parts(chance), "multipart/form-data" + boundary)


def _cut_multipart(chance: random.Random) -> bytes:
    content = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + _PICTURES["PNG"]
        + b'\r\n--x\r\nContent-Disposition: form-data; name="prompts"\r\n\r\na cat\r\n--x--'
    )
    return _request(
        content[: chance.randrange(len(content) - 4)], "multipart/form-data; boundary=x"
    )


def _bad_headers(chance: random.Random) -> bytes:
    headers = chance.choice(
        [
            ["X-Request-Timeout-Ms: soon"], ["X-Request-Timeout-Ms: -1"], ["Accept: text/html"],
            ["X-Request-ID: " + "a" * 9000], ["Expect: 200-ok"], ["Content-Length: 7"],
            ["Transfer-Encoding: gzip"], ["Accept: image/png, ;;q=x"], [" folded: a"], ["No colon"],
            ["Bad\0name: a"], ["A: \x00"], ["Content-Encoding: br"], ["Upgrade: websocket"],
        ]
    )  # fmt: skip
    content_type = chance.choice(["application/json", "text/plain", "", "a/b; c=\xff", "image/png"])
    content = b"{" if content_type == "application/json" else b"{}"
    return _request(content, content_type, "POST /explain HTTP/1.1", *headers)


def _wrong_route(chance: random.Random) -> bytes:
    method = chance.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST", "HEAD", "TRACE"])
    paths = [
        "/nowhere", "/explain/", "/models/none", "/models/%00", "/../etc/passwd", "/explain?x=%ff",
        "//explain", "/%65xplain/..", "/models/" + "a" * 3000, "/docs/x", "*",
    ]  # fmt: skip
    return _request(b"{}", line=f"{method} {chance.choice(paths)} HTTP/1.1")


def _no_http(chance: random.Random) -> bytes:
    choices = [
        b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 50,
        b"PRI * HTTP/2.0\r\n\r\n", b"FOO / HTTP/1.1\r\n\r\n", b"GET\r\n\r\n",
        b"POST /explain HTTP/1.1\nHost: a\n\n", bytes(chance.randrange(256) for _ in range(200)),
    ]  # fmt: skip
    return chance.choice(choices)


def _bad_chunks(chance: random.Random) -> bytes:
    head = (
        b"POST /explain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        # Some end too early, and the server waits for the rest.
        b"X-Request-Timeout-Ms: 5000\r\n"
    )
    if chance.random() < 0.2:
        head += b"Content-Length: 5\r\n"
    bodies = [
        b"ZZ\r\n", b"-1\r\n", b"5\r\nab\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n",
        b"1\r\n{\r\n0\r\n\r\n", b"1;" + b"x" * 9000 + b"\r\n{\r\n0\r\nT: 1\r\n\r\n",
    ]  # fmt: skip
    return head + b"\r\n" + chance.choice(bodies)


def _wrong_length(chance: random.Random) -> bytes:
    content = json.dumps(request_of()).encode()
    length = chance.choice(["-1", "x", "5", "1" + "0" * 30, "+7", "0x10", ""])
    return (
        b"POST /explain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\n"
        + f"Content-Length: {length}\r\n\r\n".encode()
        + content
    )


def _oversize(chance: random.Random) -> bytes:
    if chance.random() < 0.8:
        return (
            b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2000001\r\n\r\n"
        )
    return _request(b" " * 2_000_100)


def _compressed(chance: random.Random) -> bytes:
    encoding = chance.choice(["gzip", "br", "deflate", "zstd", "identity, gzip"])
    return _request(
        b"\x1f\x8b", "application/json", "POST /explain HTTP/1.1", f"Content-Encoding: {encoding}"
    )
