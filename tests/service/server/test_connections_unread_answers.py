"""Clients that do not read their answers hold bounded resources for a bounded time."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from service.server.connections import GuardedConnection, RefusalLog
from service.server.waiting import WaitingConnections
from service.settings.values import ConnectionLimits
from service.telemetry.metrics import Metrics
from tests.support.answers import refused
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.raw_connections import PATIENCE, closed, connect, is_closed
from tests.support.raw_requests import HEAD, posted
from tests.support.running_app import Held, RunningApp

LONG = 120
LARGE = {
    "images": [data_url(encoded(picture(1500, 1500, seed=seed))) for seed in range(4)],
    "prompts": [f"thing {number}" for number in range(4)],
    "output": {"heatmap": "png16", "max_side": 1500},
}


@contextlib.contextmanager
def reading_slowly(model: str, **settings: Any) -> Iterator[tuple[RunningApp, socket.socket]]:
    """Yield an application and a client that has read only the beginning of a large answer."""
    # A busy machine may take long to draw it.
    patient: dict[str, Any] = {"request_timeout_seconds": LONG, "picture_timeout_seconds": LONG}
    with RunningApp(model, **patient, **settings) as running, connect(running, 4096) as reader:
        reader.settimeout(LONG)
        reader.sendall(posted(LARGE))
        assert reader.recv(100).startswith(b"HTTP/1.1 200")
        yield running, reader


def test_an_answer_holds_its_place_until_it_is_read(tiny_model: str) -> None:
    with reading_slowly(tiny_model, max_requests_in_progress=1) as (running, reader):
        refused_one = running.explain()
        assert (refused_one.status_code, refused_one.json()["error"]) == (429, "too-many-requests")
        assert running.metric("legrad_requests_in_progress") == 1
        reader.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        rest = b"".join(iter(lambda: reader.recv(1_000_000), b""))
        assert rest.endswith(b'{"status":"alive"}')
        running.eventually(lambda: running.metric("legrad_requests_in_progress") == 0)
        assert running.explain().status_code == 200


def test_an_answer_that_is_not_read_is_given_up(tiny_model: str) -> None:
    with reading_slowly(tiny_model, send_timeout_seconds=0.5) as (running, reader):
        running.eventually(lambda: running.metric("legrad_requests_in_progress") == 0)
        assert closed(running, "slow-reader") == 1
        assert is_closed(reader)
        slowest = 'legrad_request_duration_seconds_sum{route="/explain"}'
        assert running.metric(slowest) >= 0.5


class UnreadTransport(asyncio.Transport):
    """A transport that nobody reads from; it pauses the writer if ``pauses``."""

    def __init__(self, pauses: bool) -> None:
        super().__init__()
        self._pauses = pauses
        self.connection: GuardedConnection | None = None
        self.written = b""
        self.aborted = asyncio.Event()
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data
        if self._pauses and self.connection is not None and b"the end" in self.written:
            self.connection.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def closed_as_unread(requests: bytes, *, pauses: bool) -> bytes:
    """Return the bytes written to a client that reads nothing, until its connection is aborted."""

    async def ask() -> bytes:
        metrics = Metrics((), (), ())
        connection = GuardedConnection(
            limits=ConnectionLimits(max_connections=1000, head_seconds=15.0, send_seconds=0.05),
            metrics=metrics,
            refusals=RefusalLog(),
            waiting=WaitingConnections(),
            config=uvicorn.Config(Response("the end"), ws="none", log_config=None),
            server_state=ServerState(),
            app_state={},
        )
        transport = UnreadTransport(pauses)
        transport.connection = connection
        connection.connection_made(transport)
        connection.data_received(requests)
        try:
            async with asyncio.timeout(PATIENCE):
                await transport.aborted.wait()
        finally:
            connection.connection_lost(ConnectionAbortedError())
        assert metrics.connections_closed.labels("slow-reader")._value.get() == 1
        return transport.written

    return asyncio.run(ask())


def test_an_answer_that_cannot_begin_for_the_last_one_is_not_read_is_given_up() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert closed_as_unread(2 * request, pauses=True).count(b"the end") == 1


def test_the_end_of_an_answer_that_is_not_read_is_given_up() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert closed_as_unread(request, pauses=False).count(b"the end") == 1


def test_a_request_that_would_draw_too_much_is_told_so(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_drawn_pixels=20_000) as running:
        one = request_of(prompts=["a cat", "a dog"])  # 2 targets, 2 drawings of 80 x 60 each
        assert running.explain(one).status_code == 200
        three = request_of(prompts=["a cat", "a dog", "a bird"])
        response = running.explain(three)
        assert "28800 pixels" in refused(response, 422, "limit-exceeded", "output")
        assert running.explain(three | {"output": {"overlay": False}}).status_code == 200
        assert running.explain(three | {"output": {"max_side": 40}}).status_code == 200


def test_requests_together_draw_no_more_than_the_server_holds(tiny_model: str) -> None:
    with (
        RunningApp(tiny_model, max_drawn_pixels_in_progress=15_000) as running,
        Held(running) as held,
    ):
        first = running.explain_in_background()
        assert held.entered.wait(PATIENCE)
        busy = running.explain()
        assert (busy.status_code, busy.json()["error"]) == (429, "too-many-requests")
        held.release()
        assert first.result(PATIENCE).status_code == 200
        assert running.explain().status_code == 200


def test_bodies_together_are_no_more_than_the_server_holds(tiny_model: str) -> None:
    def two_thirds(running: RunningApp) -> httpx.Response:
        return running.client.post(
            "/explain", content=b" " * 600_000, headers={"content-type": "application/json"}
        )

    with RunningApp(tiny_model, max_body_bytes_in_progress=1_000_000) as running:
        with connect(running) as waiting:
            waiting.sendall(HEAD + b"Content-Length: 900000\r\n\r\n" + b" " * 600_000)
            held = "legrad_body_bytes_in_progress"
            running.eventually(lambda: running.metric(held) == 600_000)
            assert two_thirds(running).status_code == 429
        running.eventually(lambda: two_thirds(running).status_code == 400)
        assert running.explain().status_code == 200


def test_the_last_answer_that_is_not_read_is_given_up_though_more_was_asked() -> None:
    last = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    more = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert closed_as_unread(last + more, pauses=False).count(b"the end") == 1
