"""Bytes sent on a connection of their own, and the answer."""

import contextlib
import socket
import time

from tests.support.running_server import Server

_PATIENCE_SECONDS = 35.0
# A request that is refused while it is sent may leave a connection open.
_REST_SECONDS = 1.0
_MOST_BYTES = 1_000_000


def exchange(server: Server, request: bytes) -> tuple[int, float, bytes]:
    """Send a request on its own connection.

    Returns:
        The status, 0 for none; the seconds until the first bytes of the answer; and all bytes that
        the server sends.
    """
    began = time.monotonic()
    received, taken = b"", None
    with (
        contextlib.suppress(OSError),
        socket.create_connection((server.host, server.port), _PATIENCE_SECONDS) as connection,
    ):
        with contextlib.suppress(OSError):
            connection.sendall(request)
            if b"Connection: close" not in request[:1000]:
                connection.shutdown(socket.SHUT_WR)
        while len(received) < _MOST_BYTES and (piece := connection.recv(65_536)):
            if taken is None:
                taken = time.monotonic() - began
                connection.settimeout(_REST_SECONDS)
            received += piece
    status = received.split(b" ", 2)[1] if received.startswith(b"HTTP/1.1 ") else b"0"
    return int(status), taken or time.monotonic() - began, received
