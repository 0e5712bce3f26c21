"""Requests that other software around the application cancels, or gives an id."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from service.app import create_app
from service.http.application import application_of
from service.http.headers import OneRequestId
from service.settings import Settings

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
        "headers": [(b"content-type", b"application/json"), (b"x-request-id", b"given")],
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
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        await app(scope_of("GET", path), receive, send)

    asyncio.run(ask())
    ids = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    assert ids == [b"given"]
