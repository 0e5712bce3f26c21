"""The server closes connections whose request stalls or whose head has no end."""

import threading
from collections.abc import Iterator

import pytest

from tests.support.raw_connections import closed, connect, is_closed, send_until_closed
from tests.support.raw_requests import HEAD, LIVE
from tests.support.running_app import RunningApp


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health/li",
        HEAD,
        b"\r\n" * 10,
        LIVE + b"GET ",
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhalf",
    ],
    ids=["nothing", "path", "headers", "newlines", "second", "refused-body"],
)
def test_a_request_that_does_not_arrive_is_given_up(tiny_model: str, sent: bytes) -> None:
    with (
        RunningApp(tiny_model, head_timeout_seconds=0.3) as running,
        connect(running) as connection,
    ):
        connection.sendall(sent)
        assert is_closed(connection)
        running.eventually(lambda: closed(running, "slow-request") >= 1)
        assert running.explain().status_code == 200


def test_a_head_in_drops_is_given_up_all_the_same(tiny_model: str) -> None:
    def drops() -> Iterator[bytes]:
        pause = threading.Event()
        yield b"GET /health/live HTTP/1.1\r\n"
        for number in range(1000):
            pause.wait(0.05)
            yield b"X-%d: y\r\n" % number

    with (
        RunningApp(tiny_model, head_timeout_seconds=0.5) as running,
        connect(running) as connection,
    ):
        send_until_closed(connection, drops())
        assert closed(running, "slow-request") >= 1


def test_an_endless_head_is_given_up(running: RunningApp) -> None:
    before = closed(running, "large-head")
    with connect(running) as connection:
        start = [b"GET /health/live HTTP/1.1\r\nX: "]
        send_until_closed(connection, iter(start + [b"y" * 65536] * 2000))
    assert closed(running, "large-head") == before + 1


def test_a_head_of_very_many_lines_is_given_up(running: RunningApp) -> None:
    before = closed(running, "large-head")
    with connect(running) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 101)
        assert is_closed(connection)
    assert closed(running, "large-head") == before + 1


def test_endless_trailers_are_given_up(running: RunningApp) -> None:
    before = closed(running, "large-head")
    with connect(running) as connection:
        start = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"]
        send_until_closed(connection, iter(start + [b"X: " + b"y" * 1000 + b"\r\n"] * 100_000))
    assert closed(running, "large-head") == before + 1
