"""Answers are written once, piece by piece, and are still what their models say."""

import asyncio
import base64
import email.parser
import email.policy
import json
import secrets
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from service.routes.writing import (
    Place,
    RawPart,
    WrittenAnswer,
    json_answer,
    multipart_answer,
)
from service.schemas.answers import ExplainResponse
from tests.support.pictures import base64_of

ZEROS = "0" * 32


def sent(answering: Coroutine[Any, Any, WrittenAnswer]) -> tuple[dict[str, str], list[bytes]]:
    """Return the headers and the pieces of an answer."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        raise AssertionError("an answer reads nothing")

    async def answer() -> None:
        await (await answering)({"type": "http"}, receive, send)

    asyncio.run(answer())
    start, *pieces = messages
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert int(headers["content-length"]) == sum(len(piece["body"]) for piece in pieces)
    return headers, [piece["body"] for piece in pieces]


def explanation(
    labels: list[str], place: Callable[[bytes], str | None], pictures: list[bytes | None]
) -> ExplainResponse:
    """Return an answer about one image, with a heatmap and an overlay for each label."""
    point = {"x": 1, "y": 2}
    statistics = {
        "peak": 1.0, "peak_position": point, "mean": 0.5, "entropy": 0.5, "border_mass": 0.0,
    }  # fmt: skip
    targets: list[dict[str, Any]] = [
        {
            "target": label, "prompt": label, "similarity": 0.1, "probability": None,
            "presence": None,
            "heatmap": None if heatmap is None else place(heatmap), "heatmap_type": "image/png",
            "overlay": None if overlay is None else place(overlay), "overlay_type": "image/jpeg",
            "head": None, "regions": [], "statistics": statistics,
        }
        for label, heatmap, overlay in zip(labels, pictures[::2], pictures[1::2], strict=True)
    ]  # fmt: skip
    size = {"width": 3, "height": 2}
    image = {
        "size": size, "input_size": size, "grid": {"rows": 1, "columns": 1}, "batch_size": 1,
        "cached": False, "method": {"name": "legrad", "targeted": True, "note": None},
        "targets": targets,
    }  # fmt: skip
    timings = dict.fromkeys(("decode", "queue", "compute", "render", "total"), 0.1)
    return ExplainResponse.model_validate(
        {
            "request_id": "1", "model": labels[0], "layers": [0], "score": "mean",
            "cached_prompts": 0, "images": [image], "timings": timings,
        }
    )  # fmt: skip


LABELS = [
    'a "quoted" cat', "back\\slash", "null", '","overlay":"', "\u0000\u001f\ud7ff🐈", ZEROS,
    f"{ZEROS}00000000", '"}]}', "",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(LABELS) | st.text(max_size=20), min_size=1, max_size=5),
    st.lists(st.none() | st.binary(max_size=50), min_size=10, max_size=10),
)
def test_json_is_the_dump_of_the_model_with_its_pictures(
    labels: list[str], pictures: list[bytes | None]
) -> None:
    chosen = pictures[: 2 * len(labels)]

    def model_with(place: Place) -> ExplainResponse:
        return explanation(labels, place, chosen)

    headers, pieces = sent(json_answer(1, model_with))
    assert headers["content-type"] == "application/json"
    written = b"".join(pieces)
    expected = model_with(base64_of)
    assert json.loads(written) == expected.model_dump(mode="json")
    assert ExplainResponse.model_validate_json(written) == expected
    assert written == expected.model_dump_json().encode()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 12_287, 12_288, 12_289, 65_536, 1_000_003])
def test_pictures_of_every_size_are_sent_in_small_pieces(size: int) -> None:
    picture = secrets.token_bytes(size)
    _, pieces = sent(json_answer(1, lambda place: explanation(["a"], place, [picture, b"small"])))
    assert max(map(len, pieces)) <= 65_536
    assert len(pieces) <= 2 + 4 * size / 3 / 40_000
    (target,) = json.loads(b"".join(pieces))["images"][0]["targets"]
    assert base64.b64decode(target["heatmap"], validate=True) == picture
    assert base64.b64decode(target["overlay"], validate=True) == b"small"


@pytest.mark.parametrize("media_type", ["multipart/form-data", "multipart/mixed"])
def test_parts_keep_every_byte(media_type: str) -> None:
    contents = [b"{}", b"", b"\r\n--\r\n", b"\r\n", bytes(range(256)) * 1000]
    raw = [
        RawPart(f'attachment; name="{index}"', "image/png", content)
        for index, content in enumerate(contents)
    ]
    headers, pieces = sent(multipart_answer(media_type, lambda: raw[0], raw[1:]))
    assert headers["content-type"].startswith(f"{media_type}; boundary=")
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + b"".join(pieces))
    parts = list(message.iter_parts())
    assert [part.get_param("name", header="content-disposition") for part in parts] == [
        "0", "1", "2", "3", "4",
    ]  # fmt: skip
    assert {part.get_content_type() for part in parts} == {"image/png"}
    # The standard library's parser reads line ends in binary parts as text; the bytes are counted
    # at the boundaries.
    boundary = headers["content-type"].partition("=")[2].encode()
    bodies = b"".join(pieces).split(b"--" + boundary)[1:-1]
    assert [body.partition(b"\r\n\r\n")[2][:-2] for body in bodies] == contents


def test_a_boundary_occurs_in_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: Iterator[str] = iter(["taken", "free"])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(tokens))
    part = RawPart("inline", "image/png", b"\r\n--taken--\r\n")
    headers, _ = sent(multipart_answer("multipart/mixed", lambda: part, []))
    assert headers["content-type"] == "multipart/mixed; boundary=free"
