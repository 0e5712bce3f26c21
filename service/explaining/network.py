"""Look-up of host names and connections, for pictures by URL."""

import socket
from collections.abc import Sequence
from typing import Protocol

import httpcore

# Some platforms have no EAI_NODATA.
_NO_ADDRESS = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class Network(Protocol):
    """Resolver and connector. Connections go to IP addresses, never to names."""

    def addresses(self, host: str) -> Sequence[str]:
        """Return the IP addresses of a host, or none if it has none. Called on a worker thread.

        Raises:
            OSError: the look-up failed.
        """

    async def connect(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        """Open a connection.

        Args:
            address: an IP address.
            port: the port.
            timeout: in seconds, or None.

        Raises:
            httpcore.NetworkError: the address refuses the connection or cannot be reached.
            httpcore.TimeoutException: connecting takes longer than the timeout.
        """


class SystemNetwork:
    """The resolver and the network of the operating system."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    def addresses(self, host: str) -> Sequence[str]:
        """Return the IP addresses of a host: see :meth:`Network.addresses`."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in _NO_ADDRESS:
                return []
            raise
        return [str(address[0]) for *_, address in found]

    async def connect(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        """Open a connection: see :meth:`Network.connect`."""
        return await self._backend.connect_tcp(address, port, timeout)
