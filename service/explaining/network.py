"""The only two things that fetching pictures asks of the network."""

import socket
from collections.abc import Sequence
from typing import Protocol

import httpcore

# Not every platform has both.
_NO_ADDRESS = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class Network(Protocol):
    """Looks names up and opens connections. A connection is opened to an address, never a name."""

    def addresses(self, host: str) -> Sequence[str]:
        """The numeric addresses of a host; none where it has none. Called on a thread.

        Raises:
            OSError: nobody could be asked, or no answer came.
        """

    async def connect(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        """A connection to a numeric address, within so many seconds.

        Raises:
            httpcore.NetworkError: it is refused or cannot be reached.
            httpcore.TimeoutException: it takes too long.
        """


class SystemNetwork:
    """The machine's own resolver and network."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    def addresses(self, host: str) -> Sequence[str]:
        """See :meth:`Network.addresses`."""
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
        """See :meth:`Network.connect`."""
        return await self._backend.connect_tcp(address, port, timeout)
