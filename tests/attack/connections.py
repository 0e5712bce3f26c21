"""Attacks by connections: slow, unread, pipelined, and too many of them."""

import contextlib
import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

from tests.attack.bodies import ATTACKER
from tests.attack.outcomes import Finding
from tests.support.api_keys import bearer
from tests.support.raw_requests import LIVE
from tests.support.running_server import Server

LIMIT_SECONDS = 3.0
"""The attacked server's limits on heads, on the reading of answers, and on these requests."""

# Timers and a busy machine.
_GRACE_SECONDS = 4.0
_STEP_SECONDS = 0.2
_SLOW = 200
_READERS = 20
_MANY = 10_000
_DESCRIPTORS_BESIDE = 300
_HOLD_SECONDS = 3.0
# Another address than that of the light caller.
_ADDRESS = "127.0.0.2"
_AUTHORIZATION = "".join(f"{name}: {value}\r\n" for name, value in bearer(ATTACKER).items())
_POST = f"POST /explain HTTP/1.1\r\nHost: a\r\n{_AUTHORIZATION}".encode()


def scenarios(server: Server) -> dict[str, Callable[[], Finding]]:
    """Return the attacks on a server, by name."""
    slow_body = _POST + b"Content-Type: application/json\r\nContent-Length: 1000000\r\n"
    slow_body += b"X-Request-Timeout-Ms: %d\r\n\r\n{" % int(1000 * LIMIT_SECONDS)
    # More than the kernel's buffers hold.
    unread = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n" * 30
    return {
        f"{_SLOW} slow heads": lambda: _dripped(server, b"GET / HTTP/1.1\r\nHost: a\r\nX: "),
        f"{_SLOW} slow bodies": lambda: _dripped(server, slow_body),
        f"{_READERS} slow readers": lambda: _unread(server, unread),
        "a thousand requests on one connection": lambda: _pipelined(server),
        f"{_MANY} connections": lambda: _crowd(server),
    }


def _connection(server: Server, receive_bytes: int | None = None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(_GRACE_SECONDS)
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.bind((_ADDRESS, 0))
    connection.connect((server.host, server.port))
    return connection


@contextlib.contextmanager
def _connections(
    server: Server, count: int, receive_bytes: int | None = None
) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as opened:
        found = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                found.append(opened.enter_context(_connection(server, receive_bytes)))
        yield found


def _dripped(server: Server, begin: bytes) -> Finding:
    """Send the beginning of a request, and then a byte at a time, until the server ends it."""
    finding = Finding()
    with _connections(server, _SLOW) as connections, selectors.DefaultSelector() as selector:
        began = time.monotonic()
        for connection in connections:
            connection.sendall(begin)
            selector.register(connection, selectors.EVENT_READ)
        limit = began + LIMIT_SECONDS + _GRACE_SECONDS
        while selector.get_map() and time.monotonic() < limit:
            for key, _ in selector.select(0):
                selector.unregister(key.fileobj)
                finding.statuses[_status(key.fileobj)] += 1  # type: ignore[arg-type]
                finding.seconds = time.monotonic() - began
            for key in list(selector.get_map().values()):
                with contextlib.suppress(OSError):
                    key.fileobj.send(b"a")  # type: ignore[union-attr]
            time.sleep(_STEP_SECONDS)
        if left := len(selector.get_map()):
            finding.reasons.append(f"{left} slow connections are still open")
    return finding


def _unread(server: Server, request: bytes) -> Finding:
    """Request much and read nothing; the server must end the connections."""
    finding = Finding()
    with _connections(server, _READERS, receive_bytes=4096) as connections:
        began = time.monotonic()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(request)
        time.sleep(LIMIT_SECONDS + _GRACE_SECONDS)
        still_open = sum(map(_is_open, connections))
        finding.seconds = time.monotonic() - began
    finding.statuses = Counter({0: len(connections) - still_open, 200: still_open})
    if still_open:
        finding.reasons.append(f"{still_open} unread connections are still open")
    return finding


def _is_open(connection: socket.socket) -> bool:
    """Read the bytes that were sent; tell whether the connection goes on behind them."""
    connection.settimeout(1.0)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


def _pipelined(server: Server) -> Finding:
    finding = Finding()
    with _connections(server, 1) as (connection,):
        began = time.monotonic()
        received = b""
        with contextlib.suppress(OSError):
            connection.sendall(LIVE * 1000)
            while piece := connection.recv(65_536):
                received += piece
        finding.seconds = time.monotonic() - began
    if finding.seconds >= _GRACE_SECONDS:
        finding.reasons.append("it stays open")
    answers = received.count(b"HTTP/1.1 200")
    finding.statuses[200] = answers
    if answers > 1000 or answers != received.count(b"HTTP/1.1"):
        finding.reasons.append("other answers than requests")
    return finding


def _crowd(server: Server) -> Finding:
    """Open as many connections as descriptors allow; hold them, and ask on some of them."""
    finding = Finding()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY + _DESCRIPTORS_BESIDE
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, most)), hard))
    count = min(_MANY, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _DESCRIPTORS_BESIDE)
    with _connections(server, count) as connections:
        began = time.monotonic()
        for connection in connections[::100]:
            with contextlib.suppress(OSError):
                connection.sendall(LIVE)
                finding.statuses[_status(connection)] += 1
        time.sleep(max(0.0, _HOLD_SECONDS - (time.monotonic() - began)))
        finding.seconds = time.monotonic() - began
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if server.client.get("/health/live").status_code != 200:
        finding.reasons.append("it does not answer afterwards")
    return finding


def _status(connection: socket.socket) -> int:
    try:
        received = connection.recv(65_536)
    except OSError:
        return 0
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.1 ") else 0
