"""Clients that continue to send a body after its refusal."""

import threading
from collections.abc import Iterator

import pytest

from tests.support.raw_connections import closed, connect, is_closed, send_until_closed
from tests.support.raw_requests import HEAD
from tests.support.running_app import RunningApp


def test_a_client_that_wants_to_close_reads_why_its_large_body_was_refused(
    tiny_model: str,
) -> None:
    """Python's urllib sends the whole body before it reads the answer."""
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
