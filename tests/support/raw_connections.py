"""Connections as sockets, for tests that send and read by hand."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.running_app import RunningApp

PATIENCE = 60.0


def connect(running: RunningApp, receive_bytes: int | None = None) -> socket.socket:
    """A new connection, with a small buffer for what it receives if one is given."""
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect((running.host, running.port))
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ends the connection, within the patience of a test."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def closed(running: RunningApp, reason: str) -> float:
    """How many connections were closed for this reason so far."""
    return running.metric(f'legrad_connections_closed_total{{reason="{reason}"}}')


def send_until_closed(connection: socket.socket, pieces: Iterator[bytes]) -> None:
    """Fails where the server takes all of it."""
    try:
        for piece in pieces:
            connection.sendall(piece)
    except ConnectionError:
        return
    pytest.fail("The server took everything.")
