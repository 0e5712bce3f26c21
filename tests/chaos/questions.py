"""The requests of the traffic, with their answers while nothing fails."""

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.support.pictures import base64_of, data_url, encoded, picture
from tests.support.protocols import RAW_MAPS

_NUMBERS = {"heatmap": "npy", "overlay": False, "regions_threshold": None}
_OVERLAYS = {**RAW_MAPS, "overlay": True, "max_side": 120, "format": "png"}
# Numbers of one request depend slightly on the other pictures of its batch.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
_MOST_LEVELS = 2.0
# Times, ids, states, and the company in a batch or cache differ between answers.
_INCIDENTAL = frozenset(
    (
        "request_id",
        "id",
        "timings",
        "batch_size",
        "cached",
        "cached_prompts",
        "in_flight",
        "state",
        "error",
        "last_used",
    )
)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A request.

    Attributes:
        kind: for the tables.
        path: its path.
        request: other arguments of ``httpx.Client.request``.
        refused: status and code of the problem that it always gets; None for a valid request.
    """

    kind: str
    path: str
    request: Mapping[str, Any]
    refused: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in the form of any protocol."""

    code: str
    request_id: str


def questions(models: list[str]) -> list[Question]:
    """Return the requests to these models."""
    return [*_valid(models), *_invalid()]


def _valid(models: list[str]) -> Iterator[Question]:
    for number, model in enumerate(models):
        small = encoded(picture(seed=number))
        photograph = encoded(picture(640, 480, seed=10 + number), "JPEG")
        body: dict[str, Any] = {"model": model, "prompts": ["a cat", "a red bus"]}
        for prompts in (["a cat"], ["a dog", "a tree"], ["the sky"]):
            asked = {**body, "prompts": prompts, "image": data_url(photograph)}
            yield _explain("second question", {**asked, "output": _OVERLAYS})
        new = {**body, "options": {"cache": False}}
        yield _explain("JSON", {**new, "image": data_url(small), "output": _NUMBERS})
        yield _explain("overlay", {**new, "image": data_url(photograph), "output": _OVERLAYS})
        several = [data_url(encoded(picture(100, 90, seed=seed), "WEBP")) for seed in range(4)]
        yield _explain("several pictures", {**new, "images": several, "output": _NUMBERS})
        large = data_url(encoded(picture(2400, 1600, seed=number), "JPEG"))
        yield _explain("large picture", {**new, "image": large, "output": _OVERLAYS})
        form = {"model": model, "prompts": "a cat", "options": '{"cache": false}'}
        yield Question(
            "multipart",
            "/explain",
            {
                "data": {**form, "output": json.dumps(_OVERLAYS)},
                "files": {"image": ("a.jpg", photograph, "image/jpeg")},
                "headers": {"Accept": "application/json"},
            },
        )
        instance = {"image": {"b64": base64_of(small)}, "prompts": ["a cat"], "output": _NUMBERS}
        instance["options"] = {"cache": False}
        yield Question(
            "KServe V1", f"/v1/models/{model}:explain", {"json": {"instances": [instance] * 2}}
        )
        tensors = [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
            for name, text in (("IMAGE", base64_of(small)), ("TEXT", "a cat"))
        ]
        yield Question(
            "Open Inference",
            f"/v2/models/{model}/infer",
            {"json": {"inputs": tensors, "parameters": {"cache": False}}},
        )
        query = {"prompts": "a cat", "options": '{"cache": false}', "output": json.dumps(_NUMBERS)}
        yield Question(
            "TorchServe", f"/explanations/{model}", {"params": query, "content": photograph}
        )
    yield Question("list of models", "/models", {})


def _invalid() -> Iterator[Question]:
    image = data_url(encoded())
    headers = {"Content-Type": "application/json"}
    malformed = {"content": b'{"image": ', "headers": headers}
    yield Question("bad JSON", "/explain", malformed, (400, "malformed-body"))
    for kind, changes, status, code in (
        ("bad picture", {"image": "aGVsbG8gd29ybGQ="}, 422, "image-decode-failed"),
        ("bad option", {"options": {"layers": 500}}, 422, "invalid-option"),
        ("no such model", {"model": "nothing"}, 404, "unknown-model"),
    ):
        yield _explain(kind, {"image": image, "prompts": ["a"], **changes}, (status, code))


def _explain(kind: str, body: dict[str, Any], refused: tuple[int, str] | None = None) -> Question:
    return Question(kind, "/explain", {"json": body}, refused)


def ask(client: httpx.Client, question: Question, **headers: str) -> httpx.Response:
    """Send a request."""
    request = dict(question.request)
    method = "GET" if not request else "POST"
    request["headers"] = {**request.get("headers", {}), **headers}
    return client.request(method, question.path, **request)


def problem_of(response: httpx.Response) -> Problem:
    """Read a problem.

    Raises:
        ValueError: the answer is no typed problem.
    """
    body = response.json()
    if response.headers["content-type"] == "application/problem+json":
        if body["status"] != response.status_code or not body["title"]:
            raise ValueError(response.text[:300])
        return Problem(body["error"], body["request_id"])
    # KServe's form has the code in `code`, TorchServe's in `type`.
    code = body["type"] if isinstance(body["code"], int) else body["code"]
    return Problem(code, response.headers["x-request-id"])


def difference(expected: Any, found: Any, path: str = "answer") -> str:
    """Return the place and kind of the first difference of two answers; empty if there is none."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return f"{path} has {sorted(found)}, not {sorted(expected)}"
        kept = (key for key in expected if key not in _INCIDENTAL)
        inner = (difference(expected[key], found[key], f"{path}.{key}") for key in kept)
        return next(filter(None, inner), "")
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return f"{path} has {len(found)} elements, not {len(expected)}"
        inner = (
            difference(*pair, f"{path}[{place}]")
            for place, pair in enumerate(zip(expected, found, strict=True))
        )
        return next(filter(None, inner), "")
    if isinstance(expected, float) and isinstance(found, (int, float)):
        close = math.isclose(expected, found, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
        return "" if close else f"{path} is {found}, not {expected}"
    # Long texts without spaces are pictures and maps.
    texts = isinstance(expected, str) and isinstance(found, str)
    if texts and len(expected) > 100 and " " not in expected:
        return _difference_of_data(expected, found, path)
    return "" if expected == found else f"{path} is {found!r}, not {expected!r}"


def _difference_of_data(expected: str, found: str, path: str) -> str:
    old, new = _decoded(expected), _decoded(found)
    if old.shape != new.shape:
        return f"{path} has the shape {new.shape}, not {old.shape}"
    if old.dtype == np.uint8:
        levels = float(np.abs(old.astype(int) - new.astype(int)).mean())
        return "" if levels <= _MOST_LEVELS else f"{path} differs by {levels:.1f} levels"
    close = np.allclose(new, old, rtol=_RELATIVE, atol=_ABSOLUTE)
    return "" if close else f"{path} differs by {float(np.abs(new - old).max()):g}"


def _decoded(text: str) -> np.ndarray[Any, Any]:
    data = base64.b64decode(text.rpartition(",")[2], validate=True)
    if data.startswith(b"\x93NUMPY"):
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(data))
        return array
    return np.asarray(Image.open(io.BytesIO(data)))
