"""Compressed bodies are read within the limits on their content."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from service.errors import TooManyRequestsError
from service.http.bodies import BodyBudget
from service.settings.values import BodyLimits
from service.telemetry.metrics import Metrics
from tests.support.answers import refused
from tests.support.pictures import encoded, request_of
from tests.support.running_app import RunningApp

LIMIT = 2_000_000


def members(data: bytes) -> bytes:
    """Compress both halves on their own, one after the other."""
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


def send(running: RunningApp, content: Any, coding: str = "gzip", **headers: str) -> Any:
    given = {"Content-Type": "application/json", "Content-Encoding": coding, **headers}
    return running.client.post("/explain", content=content, headers=given)


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZIP", members),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
def test_a_compressed_body_means_the_same(
    running: RunningApp, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    body = json.dumps(request_of(prompts=["a cat", "a dog"]) | {"padding": None}).encode()
    body = body.replace(b', "padding": null', b" " * 600_000)
    compressed = compress(body)
    targets = running.explain(request_of(prompts=["a cat", "a dog"])).json()["images"][0]["targets"]
    for content in (compressed, iter([compressed[:7], compressed[7:], b""])):
        answer = send(running, content, coding)
        assert answer.status_code == 200, answer.text
        assert answer.json()["images"][0]["targets"] == targets


def test_every_protocol_reads_compressed_bodies(running: RunningApp) -> None:
    picture = gzip.compress(encoded())
    path = f"/explanations/{running.model.id}?prompts=a"
    answer = running.client.post(path, content=picture, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 200, answer.text
    body = {"instances": [request_of()]}
    answer = running.client.post(
        f"/v1/models/{running.model.id}:explain",
        content=gzip.compress(json.dumps(body).encode()),
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.status_code == 200, answer.text


def test_a_bomb_is_refused_as_soon_as_it_exceeds_the_limit(running: RunningApp) -> None:
    layer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(layer.compress(bytes(1_000_000)) for _ in range(1000)) + layer.flush()
    assert len(bomb) < LIMIT
    answer = send(running, bomb)
    assert f"{LIMIT} bytes" in refused(answer, 413, "body-too-large", "body")
    running.eventually(lambda: running.metric("legrad_body_bytes_in_progress") == 0)
    assert running.explain().status_code == 200


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_the_limit_is_that_of_the_content(running: RunningApp, size: int) -> None:
    body = json.dumps(request_of()).encode().ljust(size)
    assert send(running, gzip.compress(body)).status_code == (200 if size == LIMIT else 413)


@pytest.mark.parametrize(
    ("content", "coding"),
    [
        (gzip.compress(b"{}")[:-1], "gzip"),
        (gzip.compress(b"{}")[:-5] + b"\0" * 5, "gzip"),
        (gzip.compress(b"{}") + b"x", "gzip"),
        (b"{}", "gzip"),
        (b"x", "deflate"),
        (gzip.compress(b"{}"), "deflate"),
        (zlib.compress(b"{}")[:-1], "deflate"),
    ],
    ids=["cut", "wrong length", "something behind", "plain", "no zlib", "gzip", "cut zlib"],
)
def test_a_damaged_body_is_refused(running: RunningApp, content: bytes, coding: str) -> None:
    detail = refused(send(running, content, coding), 400, "malformed-body", "body")
    assert "cannot be decompressed" in detail


def test_a_body_of_countless_members_is_refused(running: RunningApp) -> None:
    few, many = (gzip.compress(b"") * count for count in (999, 60_000))
    good = gzip.compress(json.dumps(request_of()).encode())
    assert send(running, few + good).status_code == 200
    detail = refused(send(running, many + good), 400, "malformed-body", "body")
    assert "more than 1000 members" in detail


def test_an_empty_body_is_no_json_whatever_its_coding(running: RunningApp) -> None:
    refused(send(running, b""), 400, "malformed-body", "body")


def test_bodies_of_a_caller_leave_room_for_those_of_others() -> None:
    budget = BodyBudget(BodyLimits(1000, 8000), Metrics([], [], []))

    async def receive(owner: str, size: int, sent: ExitStack) -> None:
        async def received() -> Message:
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        await budget.limited(Headers(), received, lambda: owner, sent)()

    async def several(sent: ExitStack) -> None:
        for _ in range(8):
            await receive("heavy", 1000, sent)
        with ExitStack() as refused, pytest.raises(TooManyRequestsError):
            await receive("heavy", 1000, refused)
        await receive("light", 100, sent)

    with ExitStack() as sent:
        asyncio.run(several(sent))
