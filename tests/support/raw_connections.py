"""Raw connections, for tests that send and receive bytes."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.raw_requests import LIVE
from tests.support.running_app import RunningApp

PATIENCE = 60.0


def connect(
    running: RunningApp, receive_bytes: int | None = None, address: str = ""
) -> socket.socket:
    """Open a connection, with a small receive buffer or from an own address if they are given."""
    connection = socket.socket()
    connection.bind((address, 0))
    connection.settimeout(PATIENCE)
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect((running.host, running.port))
    return connection


def answered_once(
    running: RunningApp, request: bytes = LIVE, status: bytes = b"200"
) -> socket.socket:
    """Open a connection, send a request and read its answer."""
    connection = connect(running)
    connection.sendall(request)
    assert connection.recv(65536).startswith(b"HTTP/1.1 " + status)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Return whether the server ends the connection in a bounded time."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def closed(running: RunningApp, reason: str) -> float:
    """Return the number of connections closed for this reason so far."""
    return running.metric(f'legrad_connections_closed_total{{reason="{reason}"}}')


def send_until_closed(connection: socket.socket, pieces: Iterator[bytes]) -> None:
    """Send pieces until the server closes the connection; fail if it accepts all of them."""
    try:
        for piece in pieces:
            connection.sendall(piece)
    except ConnectionError:
        return
    pytest.fail("The server took everything.")
