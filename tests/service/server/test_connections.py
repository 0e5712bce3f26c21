"""Clients that do not send, or hold connections: each is given up, and counted."""

import gc
import json
import socket
import struct
import threading
import weakref
from collections.abc import Iterator

import httpx
import pytest
import structlog

from tests.support.pictures import request_of
from tests.support.raw_connections import closed, connect, is_closed, send_until_closed
from tests.support.raw_requests import HEAD, LIVE, REFUSED_EARLY
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


def test_a_body_in_tiny_chunks_is_read(running: RunningApp) -> None:
    content = json.dumps(request_of(output={"heatmap": "none", "overlay": False})).encode()
    content += b" " * 200_000
    with connect(running) as connection:
        connection.sendall(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"".join(b"1\r\n%c\r\n" % each for each in content) + b"0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "in-parts"])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with-length"])
def test_a_request_that_offers_another_protocol_keeps_its_body(
    running: RunningApp, at_once: bool, chunked: bool
) -> None:
    content = json.dumps(request_of(output={"heatmap": "none", "overlay": False})).encode()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    framing, body = b"Content-Length: %d\r\n\r\n" % len(content), content
    if chunked:
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    following = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with connect(running) as connection:
        connection.sendall(HEAD + offer + framing + (body + following if at_once else b""))
        if not at_once:
            connection.sendall(body[:10])
            connection.sendall(body[10:] + following)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"similarity"' in answer
    assert answer.endswith(b'{"status":"alive"}')


def test_offers_of_another_protocol_without_end_are_given_up(running: RunningApp) -> None:
    offer = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    before = closed(running, "too-many")
    with connect(running) as connection:
        connection.sendall(offer * 2000)
        assert is_closed(connection)
    assert closed(running, "too-many") == before + 1


def test_a_length_with_many_zeros_is_a_length(running: RunningApp) -> None:
    content = json.dumps(request_of(output={"heatmap": "none", "overlay": False})).encode()
    with connect(running) as connection:
        length = b"Connection: close\r\nContent-Length: " + b"0" * 5000 + b"%d\r\n\r\n"
        connection.sendall(HEAD + length % len(content) + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")


def test_requests_sent_ahead_without_end_are_given_up(running: RunningApp) -> None:
    before = closed(running, "too-many")
    with connect(running) as connection:
        connection.sendall(LIVE * 2000)
        assert is_closed(connection)
    assert closed(running, "too-many") == before + 1


def test_a_connection_too_many_is_closed_and_others_work_on(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_connections=3) as running:
        kept = [connect(running) for _ in range(3)]
        with connect(running) as refused_one:
            assert is_closed(refused_one)
        for connection in kept:
            connection.close()
        running.eventually(lambda: closed(running, "too-many") == 1)
        assert running.explain().status_code == 200


def answered_once(
    running: RunningApp, request: bytes = LIVE, status: bytes = b"200"
) -> socket.socket:
    """A connection with an answer."""
    connection = connect(running)
    connection.sendall(request)
    assert connection.recv(65536).startswith(b"HTTP/1.1 " + status)
    return connection


def test_a_connection_too_many_takes_the_place_of_the_one_idle_for_longest(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_connections=3) as running:
        oldest, newest = answered_once(running), answered_once(running)
        with connect(running) as silent, answered_once(running) as another:
            assert is_closed(oldest)
            for connection in (newest, another):
                connection.sendall(LIVE)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            silent.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert silent.recv(65536).startswith(b"HTTP/1.1 200")
            assert is_closed(silent)
        newest.close()
        # The first was the connection with which this test had asked whether the server is ready.
        assert closed(running, "idle") == 2


def test_a_connection_is_idle_once_the_rest_of_a_refused_body_has_come(tiny_model: str) -> None:
    def takes_its_place() -> bool:
        try:
            return running.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    with (
        RunningApp(tiny_model, max_connections=1, head_timeout_seconds=600) as running,
        answered_once(running, REFUSED_EARLY, b"404") as refused,
    ):
        refused.sendall(b"0123456789")
        running.eventually(takes_its_place)
        assert is_closed(refused)


def test_a_connection_is_kept_after_a_refused_body_as_after_any_other(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.server.process.IDLE_SECONDS", 1)
    with RunningApp(tiny_model, head_timeout_seconds=600) as running:
        with answered_once(running, REFUSED_EARLY, b"404") as refused:
            refused.sendall(b"0123456789")
            assert is_closed(refused)
        assert closed(running, "slow-request") == 0


# Its answer is the last, though the client may go on.
LAST = b"GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"


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
    with connect(running) as connection, structlog.testing.capture_logs() as log:
        connection.sendall(LAST + b"GET /models HTTP/1.1\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"Host: a\r\n\r\n")
        assert is_closed(connection)
        assert running.client.get("/health/live").status_code == 200
    assert {each["route"] for each in log if each["event"] == "answered"} == {"/health/live"}
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_nonsense_behind_a_request_does_not_cost_it_its_answer(running: RunningApp) -> None:
    with connect(running) as connection:
        connection.sendall(LIVE + b"no HTTP\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b'{"status":"alive"}')


def test_a_client_that_wants_to_close_reads_why_its_large_body_was_refused(
    tiny_model: str,
) -> None:
    """As Python's urllib does, it sends all of its body before it reads."""
    content = b"0" * 20_000_000
    with (
        RunningApp(tiny_model, max_body_bytes=1_000_000) as running,
        connect(running) as connection,
    ):
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content))
        assert connection.recv(12) == b"HTTP/1.1 413"
        connection.sendall(content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"application/problem+json" in answer
        assert answer.rstrip().endswith(b"}")


def test_a_refused_body_that_never_ends_is_given_up(tiny_model: str) -> None:
    def zeros() -> Iterator[bytes]:
        pause = threading.Event()
        for _ in range(1000):
            pause.wait(0.02)
            yield b"0" * 1000

    with (
        RunningApp(tiny_model, max_body_bytes=1000, head_timeout_seconds=0.5) as running,
        connect(running) as connection,
    ):
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: 9999999\r\n\r\n")
        send_until_closed(connection, zeros())
        assert closed(running, "slow-request") == 1


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_nothing_of_a_connection_is_kept_once_it_is_closed(
    running: RunningApp, reset: bool
) -> None:
    connections = running._server.server_state.connections
    before = set(connections)
    gc.disable()
    try:
        with answered_once(running) as connection:
            (known,) = map(weakref.ref, set(connections) - before)
            if reset:
                never = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, never)
        running.eventually(lambda: known() is None)
    finally:
        gc.enable()


def test_nonsense_after_a_refusal_ends_the_connection(
    tiny_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        RunningApp(tiny_model, max_body_bytes=100_000) as running,
        connect(running) as connection,
    ):
        chunked = b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(HEAD + chunked + b"20000\r\n" + b"0" * 0x20000 + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"
        connection.sendall(b"this is no chunk\r\n")
        assert is_closed(connection)
        assert running.explain().status_code == 200
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
