"""Pipelined requests: sent before the answer to the previous one was read."""

import pytest
import structlog

from tests.support.raw_connections import closed, connect, is_closed
from tests.support.raw_requests import HEAD, LIVE
from tests.support.running_app import RunningApp

# The server closes the connection after this answer, though the client may send more.
LAST = b"GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"


def test_requests_sent_ahead_without_end_are_given_up(running: RunningApp) -> None:
    before = closed(running, "too-many")
    with connect(running) as connection:
        connection.sendall(LIVE * 2000)
        assert is_closed(connection)
    assert closed(running, "too-many") == before + 1


def test_half_a_request_behind_the_last_answer_is_given_up(tiny_model: str) -> None:
    with RunningApp(tiny_model, head_timeout_seconds=0.5) as running:
        before = closed(running, "slow-request")
        with connect(running) as connection:
            connection.sendall(LAST + HEAD + b"Content-Length: 10\r\n\r\nx")
            assert is_closed(connection)
            running.eventually(lambda: closed(running, "slow-request") == before + 1)


def test_a_request_behind_the_last_answer_is_not_carried_out(
    running: RunningApp, caplog: pytest.LogCaptureFixture
) -> None:
    # Once this is answered, no line of an earlier test is to come.
    assert running.client.get("/health/live").status_code == 200
    with connect(running) as connection, structlog.testing.capture_logs() as log:
        connection.sendall(LAST + b"GET /models HTTP/1.1\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"Host: a\r\n\r\n")
        assert is_closed(connection)
        running.line_of(running.client.get("/health/live"), log)
    assert {each["route"] for each in log if each["event"] == "answered"} == {"/health/live"}
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_nonsense_behind_a_request_does_not_cost_it_its_answer(running: RunningApp) -> None:
    with connect(running) as connection:
        connection.sendall(LIVE + b"no HTTP\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b'{"status":"alive"}')
