"""Requests that other software around the application cancels, or gives an id."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from service.app import create_app
from service.http import access_routes
from service.http.application import application_of
from service.http.headers import OneRequestId
from service.settings import Settings
from tests.support.raw_connections import connect
from tests.support.running_app import RunningApp

LEFT: tuple[int, str] = (499, "client-left")


class _Appending:
    """Middleware that appends an id to every answer, as asgi-correlation-id does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", b"another")]
            await send(message)

        await self._app(scope, receive, send_with_id)


def scope_of(method: str, path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"a"),
            (b"content-type", b"application/json"),
            (b"x-request-id", b"given"),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


async def cancelled(announced: bool) -> tuple[list[Message], int, bool]:
    """Cancel a request whose body does not arrive.

    Returns:
        What was sent, the number of abandoned requests, and whether the cancellation got through.
    """
    app = create_app(Settings(models=("starter",)))
    drain = application_of(app).drain
    reading, sent = asyncio.Event(), list[Message]()

    async def receive() -> Message:
        reading.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    task = asyncio.create_task(app(scope_of("POST", "/explain"), receive, send))
    await reading.wait()
    if announced:
        drain.announce()
    task.cancel()
    await asyncio.wait({task})
    assert drain.requests == 0
    return sent, drain.abandoned, task.cancelled()


def test_a_request_that_an_outer_server_cancels_is_that_of_a_client_that_left() -> None:
    with capture_logs() as entries:
        sent, abandoned, got_through = asyncio.run(cancelled(announced=False))
    (noted,) = [entry for entry in entries if entry["event"] == "answered"]
    assert (noted["status"], noted["problem"]) == LEFT
    assert (sent, abandoned, got_through) == ([], 0, True)


def test_a_request_that_a_shutdown_cancels_is_answered_and_counted() -> None:
    with capture_logs() as entries:
        sent, abandoned, _ = asyncio.run(cancelled(announced=True))
    (noted,) = [entry for entry in entries if entry["event"] == "answered"]
    assert (noted["status"], noted["problem"]) == (503, "shutting-down")
    assert (sent[0]["status"], abandoned) == (503, 1)


def added(app: FastAPI) -> ASGIApp:
    app.add_middleware(_Appending)
    return app


def wrapped(app: FastAPI) -> ASGIApp:
    return OneRequestId(_Appending(app))


@pytest.mark.parametrize("around", [added, wrapped])
@pytest.mark.parametrize("path", ["/health/live", "/nowhere"])
def test_the_request_id_is_there_once_whatever_middleware_stands_around(
    path: str, around: Callable[[FastAPI], ASGIApp]
) -> None:
    app = around(create_app(Settings(models=("starter",))))
    ids = [
        value
        for name, value in start_of(app, scope_of("GET", path))["headers"]
        if name == b"x-request-id"
    ]
    assert ids == [b"given"]


def test_a_query_of_any_bytes_is_kept_on_the_way_from_the_prefix_to_its_page() -> None:
    app = create_app(Settings(models=("starter",), root_path="/legrad"))
    start = start_of(app, scope_of("GET", "/legrad") | {"query_string": b"a=\xff%2F&b=\xc3\xa9"})
    assert start["status"] == 307
    assert dict(start["headers"])[b"location"] == b"./legrad/?a=%FF%2F&b=%C3%A9"


def start_of(app: ASGIApp, scope: dict[str, Any]) -> Message:
    """Return the start of the answer to a request without a body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        await app(scope, receive, send)

    asyncio.run(ask())
    return sent[0]


def exchange(running: RunningApp, head: bytes) -> bytes:
    """Send the head of a request; return all that the server answers before it closes."""
    with connect(running) as connection:
        connection.sendall(head + b"\r\n")
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


@pytest.mark.parametrize(
    "hosts", [b"", b"Host: a\r\nHost: a\r\n", b"Host: a\r\nX: y\r\nhost: b\r\n"]
)
@pytest.mark.parametrize("line", [b"GET /health/live", b"POST /explain", b"GET /nothing"])
def test_a_request_without_a_host_or_with_two_is_refused_and_its_connection_closed(
    running: RunningApp, line: bytes, hosts: bytes
) -> None:
    head, _, body = exchange(running, line + b" HTTP/1.1\r\n" + hosts).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head.lower()
    problem = json.loads(body)
    assert (problem["error"], problem["field"]) == ("malformed-request", "Host")


_PREFLIGHT = (
    b"OPTIONS /explain HTTP/1.1\r\n"
    b"Origin: https://app.example.org\r\n"
    b"Access-Control-Request-Method: POST\r\n"
)


@pytest.mark.parametrize("head", [b"POST /explain HTTP/1.1\r\n", _PREFLIGHT])
def test_two_hosts_are_refused_before_anything_else_is_answered(
    tiny_model: str, head: bytes
) -> None:
    with (
        RunningApp(tiny_model, cors_origins="https://app.example.org") as running,
        running.full(),
    ):
        answer = exchange(running, head + b"Host: a\r\nHost: b\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"x-content-type-options: nosniff" in answer.lower()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "begin", ["/", "/models/", "/v2/models/", "/web/", "/static-offline-docs/"]
)
def test_a_path_longer_than_any_is_refused_before_it_is_compared(
    running: RunningApp, method: str, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[object] = []
    monkeypatch.setattr(access_routes, "unquote", decoded.append)
    answer = running.client.request(method, begin + "%2f" * 20_000)
    assert answer.status_code == 414
    problem = answer.json()
    assert problem["error"] == "path-too-long"
    assert "2048 characters" in problem["detail"]
    assert len(answer.content) < 2000
    assert not decoded


def test_http_1_0_needs_no_host(running: RunningApp) -> None:
    answer = exchange(running, b"GET /health/live HTTP/1.0\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_empty_host_header_is_accepted(running: RunningApp) -> None:
    head = b"GET /health/live HTTP/1.1\r\nHost:\r\nConnection: close\r\n"
    assert exchange(running, head).startswith(b"HTTP/1.1 200 ")
