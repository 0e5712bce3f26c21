"""Tensors of the Open Inference Protocol that lie about their shape or size."""

import json
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.attack.bodies import posted
from tests.support.pictures import base64_of, encoded, picture

_PICTURE = encoded(picture(), "JPEG")
_PATH = "/v2/models/starter/infer"
_JSON_LENGTH = "Inference-Header-Content-Length"


def tensors() -> dict[str, Callable[[], bytes]]:
    """Return makers of requests whose tensors are wrong, by name."""
    image = _tensor("IMAGE", [1], [base64_of(_PICTURE)])
    text = _tensor("TEXT", [1], ["a cat"])
    shapes: dict[str, Any] = {
        "a shape too large": [1 << 40],
        "a shape beyond 64 bits": [1 << 70],
        "a product that wraps around": [1 << 32, 1 << 32],
        "a negative shape": [-1],
        "ten thousand dimensions": [1] * 10_000,
        "a shape of nothing": [0, 1 << 40],
        "a shape of fractions": [1.5],
        "a shape that is no number": [float("nan")],
    }
    made: dict[str, Callable[[], bytes]] = {
        name: partial(_infer, [image, {**text, "shape": shape}]) for name, shape in shapes.items()
    }
    for name, data in {
        "numbers for texts": [float("nan")],
        "nested without end": json.loads("[" * 400 + "]" * 400),
        "too many texts": ["a"] * 1_000_000,
    }.items():
        made[name] = partial(_infer, [image, {**text, "data": data}])
    sizes = {
        "bytes fewer than stated": (1_000_000, b"abc"),
        "bytes more than stated": (3, bytes(1_000_000)),
        "a size beyond 64 bits": (1 << 70, b"abc"),
        "a negative size": (-3, b"abc"),
    }
    for name, (size, appended) in sizes.items():
        made[name] = partial(_infer, [_binary("IMAGE", 1, size), text], appended)
    element = struct.pack("<I", 0xFFFFFFFF) + b"abc"
    made["an element beyond the tensor"] = partial(
        _infer, [_binary("IMAGE", 1, len(element)), text], element
    )
    empty = bytes(4 * 1_000_000)
    made["a million empty elements"] = partial(
        _infer, [image, _binary("TEXT", 1_000_000, len(empty))], empty
    )
    made["a length of the JSON beyond the body"] = lambda: posted(
        b"{}", "application/octet-stream", f"{_JSON_LENGTH}: 999999", path=_PATH
    )
    made["a long length of the JSON"] = lambda: posted(
        b"{}", "application/octet-stream", f"{_JSON_LENGTH}: {'9' * 5_000}", path=_PATH
    )
    return made


def _tensor(name: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": shape, "data": data}


def _binary(name: str, count: int, size: int) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": "BYTES", "shape": [count], "parameters": parameters}


def _infer(inputs: list[dict[str, Any]], appended: bytes = b"") -> bytes:
    content = json.dumps({"inputs": inputs}).encode()
    return posted(
        content + appended,
        "application/octet-stream",
        f"{_JSON_LENGTH}: {len(content)}",
        path=_PATH,
    )
