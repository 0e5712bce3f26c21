"""Picture sites, good and hostile, and the simulated network that leads to them."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Self

import httpcore

from service.explaining.network import SystemNetwork

Script = Callable[[socket.socket], bytes | None]
_PATIENCE_SECONDS = 30.0


class PictureSite:
    """A server on a free loopback port that answers every connection with a script.

    The script gets the connection after the head of the request was read. Its sends may fail,
    because the client may leave. Bytes that it returns are sent last, and the connection does not
    count as open any more: the client may open its next one before this one is closed.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self.heads: list[str] = []
        self.open = self.most_open = 0
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(_PATIENCE_SECONDS)
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS)
            assert not thread.is_alive(), "A connection was left open."

    def wait_for_open(self, count: int) -> None:
        """Wait until so many connections are open; fail after a bounded time."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.open == count, _PATIENCE_SECONDS), self.open

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as counted:
            self._count(1)
            counted.callback(self._count, -1)
            # The client has left, or has refused the certificate.
            with contextlib.suppress(OSError), connection:
                connection.settimeout(_PATIENCE_SECONDS)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                with connection:
                    self.heads.append(_read_head(connection))
                    last = self._script(connection)
                    if last is not None:
                        counted.close()
                        connection.sendall(last)

    def _count(self, change: int) -> None:
        with self._changed:
            self.open += change
            self.most_open = max(self.open, self.most_open)
            self._changed.notify_all()


class StubNetwork:
    """A resolver and a network of a few hosts, each of which is a loopback port.

    The URL policy sees only the simulated addresses.

    Attributes:
        hosts: the addresses of each name, or a function that returns them at each look-up.
        routes: the loopback port behind each address and port.
        silent: addresses and ports that never answer.
        lookups: the names that were looked up.
        connected: the addresses and ports that were connected to.
        loop: the event loop of the last connection.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, Sequence[str] | Callable[[], Sequence[str]]] = {}
        self.routes: dict[tuple[str, int], int] = {}
        self.silent: set[tuple[str, int]] = set()
        self.lookups: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self._real = SystemNetwork()

    def addresses(self, host: str) -> Sequence[str]:
        """Return the simulated addresses of a host."""
        self.lookups.append(host)
        found = self.hosts.get(host, ())
        return found() if callable(found) else found

    async def connect(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the loopback port behind the address, and to no other place."""
        self.loop = asyncio.get_running_loop()
        ipaddress.ip_address(address)
        self.connected.append((address, port))
        if (address, port) in self.silent:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), timeout)
            except TimeoutError as error:
                raise httpcore.ConnectTimeout from error
        if (address, port) not in self.routes:
            raise httpcore.ConnectError("Nobody listens there.")
        return await self._real.connect("127.0.0.1", self.routes[address, port], timeout)

    def serve(self, host: str, site: PictureSite, address: str = "8.8.4.4", port: int = 80) -> str:
        """Give a site a host name; return the URL of a picture there."""
        self.hosts[host] = [address]
        self.routes[address, port] = site.port
        scheme = "https" if port == 443 else "http"
        return f"{scheme}://{host}/picture"


def answer(
    body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str
) -> bytes:
    """Return an HTTP answer; ``length`` is the declared length, -1 for none."""
    lines = [f"HTTP/1.1 {status}"]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sends(*parts: bytes) -> Script:
    """Return a script that sends the parts and closes."""

    def script(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return script


def sends_forever(head: bytes, part: bytes, pause: float = 0.0) -> Script:
    """Return a script that sends the head, then the part repeatedly until the client leaves."""

    def script(connection: socket.socket) -> None:
        never = threading.Event()
        connection.sendall(head)
        while not never.wait(pause):
            connection.sendall(part)

    return script


def is_silent(connection: socket.socket) -> None:
    """Send nothing until the client leaves."""
    while connection.recv(65536):
        pass


def redirects(location: str, status: str = "302 Found", **headers: str) -> Script:
    """Return a script that redirects the client."""
    return sends(answer(b"", status, None, Location=location, **headers))


def _read_head(connection: socket.socket) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = connection.recv(65536)
        if not received:
            raise ConnectionError("The other side has left.")
        head += received
    return head.decode("latin-1")
