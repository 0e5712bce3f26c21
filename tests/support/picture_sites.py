"""Servers that pictures are fetched from, good and hostile, and a network that leads to them."""

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

Script = Callable[[socket.socket], None]
_PATIENCE_SECONDS = 30.0


class PictureSite:
    """A server on a free loopback port that answers every connection by a script.

    The script gets the connection after the request's head was read; whatever it sends may fail,
    because the other side leaves.
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
        """Waits until so many connections are open; fails after a bounded time."""
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
        self._count(1)
        # The other side has left, or did not like the certificate.
        with contextlib.suppress(OSError), connection:
            connection.settimeout(_PATIENCE_SECONDS)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                self.heads.append(_read_head(connection))
                self._script(connection)
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self.open += change
            self.most_open = max(self.open, self.most_open)
            self._changed.notify_all()


class StubNetwork:
    """A resolver and a network of a few hosts, all of which are loopback ports in truth.

    The rules see nothing but the addresses that are made up here.

    Attributes:
        hosts: the addresses of each name, or a function that makes them up at each look-up.
        routes: the loopback port behind each address and port.
        silent: addresses and ports that never answer.
        lookups: the names that were looked up.
        connected: the addresses and ports that were connected to.
        loop: where that happened last.
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
        """What is made up for the host."""
        self.lookups.append(host)
        found = self.hosts.get(host, ())
        return found() if callable(found) else found

    async def connect(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the loopback port behind the address; never anywhere else."""
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
        """Puts a site behind a name; returns the address of a picture there."""
        self.hosts[host] = [address]
        self.routes[address, port] = site.port
        scheme = "https" if port == 443 else "http"
        return f"{scheme}://{host}/picture"


def answer(
    body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str
) -> bytes:
    """An HTTP answer; ``length`` is what it claims, -1 for nothing."""
    lines = [f"HTTP/1.1 {status}"]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sends(*parts: bytes) -> Script:
    """Sends the parts, and closes."""

    def script(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return script


def sends_forever(head: bytes, part: bytes, pause: float = 0.0) -> Script:
    """Sends the head, and then one part after the other until the other side leaves."""

    def script(connection: socket.socket) -> None:
        never = threading.Event()
        connection.sendall(head)
        while not never.wait(pause):
            connection.sendall(part)

    return script


def is_silent(connection: socket.socket) -> None:
    """Sends nothing until the other side leaves."""
    while connection.recv(65536):
        pass


def redirects(location: str, status: str = "302 Found", **headers: str) -> Script:
    """Sends the caller elsewhere."""
    return sends(answer(b"", status, None, Location=location, **headers))


def _read_head(connection: socket.socket) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = connection.recv(65536)
        if not received:
            raise ConnectionError("The other side has left.")
        head += received
    return head.decode("latin-1")
