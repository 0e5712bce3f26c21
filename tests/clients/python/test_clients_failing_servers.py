"""The Python client against servers that are busy, fail, are old or are not there."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from legrad_client import (
    AsyncLegradClient,
    DeadlineError,
    LegradClient,
    RefusedError,
    UnreachableError,
)

from tests.support.http_servers import http_server
from tests.support.pictures import encoded, picture
from tests.support.running_app import Held, RunningApp

PICTURE = picture(90, 60, seed=3)
Reply = tuple[int, dict[str, str], bytes]
PROBLEM = {"error": "queue-full", "detail": "The queue is full.", "request_id": "r"}


def url_of(running: RunningApp) -> str:
    return f"http://{running.host}:{running.port}"


@contextmanager
def scripted(*script: Reply) -> Iterator[tuple[str, list[float]]]:
    """A server that answers each request by the next of its lines, and then the last for ever."""
    came: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def do_GET(self) -> None:
            came.append(time.monotonic())
            status, headers, body = script[min(len(came), len(script)) - 1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(Handler) as address:
        yield address, came


BUSY: Reply = (429, {"Retry-After": "1"}, json.dumps(PROBLEM).encode())
NO_MODELS: Reply = (200, {}, b'{"models": []}')


def test_a_busy_server_is_asked_again_when_it_says_so() -> None:
    with scripted(BUSY, NO_MODELS) as (url, came), LegradClient(url) as client:
        assert client.models() == []
    assert came[1] - came[0] >= 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_fails_for_a_moment_is_asked_again(status: int) -> None:
    with scripted((status, {}, b"<html>"), NO_MODELS) as (url, came), LegradClient(url) as client:
        assert client.models() == []
    assert len(came) == 2


def test_no_wait_outlasts_the_deadline() -> None:
    patient: Reply = (503, {"Retry-After": "3600"}, json.dumps(PROBLEM).encode())
    with scripted(patient) as (url, came), LegradClient(url) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="queue is full") as caught:
            client.models(deadline=5)
        assert time.monotonic() - began < 5
    assert len(came) == 1
    assert isinstance(caught.value.__cause__, RefusedError)


def test_a_refused_request_is_not_sent_twice() -> None:
    refused: Reply = (422, {}, json.dumps(PROBLEM).encode())
    with (
        scripted(refused) as (url, came),
        LegradClient(url) as client,
        pytest.raises(RefusedError),
    ):
        client.explain(PICTURE, ["a cat"])
    assert len(came) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models": 5}', b'{"models": [{}]}'])
def test_an_answer_of_another_program_raises_unreachable_error(body: bytes) -> None:
    with scripted((200, {}, body)) as (url, _), LegradClient(url) as client:
        with pytest.raises(UnreachableError):
            client.models()
        with pytest.raises(UnreachableError):
            client.explain(PICTURE, ["a cat"])


def test_a_server_that_is_not_there_is_given_up_at_the_deadline() -> None:
    with LegradClient("http://127.0.0.1:9") as client, pytest.raises(DeadlineError) as caught:
        client.models(deadline=1)
    assert isinstance(caught.value.__cause__, UnreachableError)

    async def ask() -> None:
        async with AsyncLegradClient("http://127.0.0.1:9") as awaited:
            await awaited.models(deadline=1)

    with pytest.raises(DeadlineError):
        asyncio.run(ask())


def test_the_server_is_told_the_deadline(tiny_model: str) -> None:
    with (
        RunningApp(tiny_model) as running,
        Held(running) as held,
        LegradClient(url_of(running)) as client,
    ):
        with pytest.raises(DeadlineError):
            client.explain(PICTURE, ["a cat"], deadline=0.5)
        held.release()
        running.eventually(lambda: running.metric("legrad_requests_in_progress") == 0)


def test_an_older_server_sends_overlays_in_png(running: RunningApp, tmp_path: Path) -> None:
    body = {"image": base64.b64encode(encoded()).decode(), "prompts": ["a cat"]}
    older = running.explain({**body, "output": {"heatmap": "npy", "format": "png"}}).json()
    for name in ("overlay_type", "heatmap_type"):
        del older["images"][0]["targets"][0][name]
    reply: Reply = (200, {"Content-Type": "application/json"}, json.dumps(older).encode())
    for multipart in (False, True):
        with scripted(reply) as (url, _), LegradClient(url, multipart=multipart) as client:
            (target,) = client.explain(PICTURE, ["a cat"])
        assert target.save_overlay(tmp_path / "cat").name == "cat.png"
