"""Idle connections: when they are closed, and which one makes room for a new one."""

import contextlib
import gc
import socket
import struct
import sys
import weakref

import httpx
import pytest

from tests.support.raw_connections import (
    answered_once,
    closed,
    connect,
    is_closed,
)
from tests.support.raw_requests import LIVE, REFUSED_EARLY
from tests.support.running_app import RunningApp


def test_a_connection_too_many_is_closed_and_others_work_on(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_connections=3) as running:
        kept = [connect(running) for _ in range(3)]
        with connect(running) as refused_one:
            assert is_closed(refused_one)
        for connection in kept:
            connection.close()
        running.eventually(lambda: closed(running, "too-many") == 1)
        assert running.explain().status_code == 200


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
        # The first one closed was this test's own connection for health checks.
        assert closed(running, "idle") == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other loopback addresses")
def test_an_address_that_takes_all_connections_makes_room_for_others(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_connections=3, head_timeout_seconds=600) as running:
        with contextlib.ExitStack() as closing:
            silent = [closing.enter_context(connect(running)) for _ in range(3)]
            other = closing.enter_context(connect(running, address="127.0.0.2"))
            assert is_closed(silent[0])
            other.sendall(LIVE)
            assert other.recv(65536).startswith(b"HTTP/1.1 200")
            # A busy address takes the place of an idle one, as before, but of no other.
            further = closing.enter_context(connect(running))
            assert is_closed(other)
            refused = closing.enter_context(connect(running))
            assert is_closed(refused)
            for connection in (*silent[1:], further):
                connection.sendall(LIVE)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        running.eventually(lambda: closed(running, "too-many") == 2)


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


def test_a_connection_is_kept_after_a_refused_body_as_after_any_other(tiny_model: str) -> None:
    with RunningApp(tiny_model, head_timeout_seconds=600, idle_timeout_seconds=0.3) as running:
        with answered_once(running) as answered:
            assert is_closed(answered)
        with answered_once(running, REFUSED_EARLY, b"404") as refused:
            refused.sendall(b"0123456789")
            assert is_closed(refused)
        assert closed(running, "slow-request") == 0


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
