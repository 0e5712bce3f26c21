"""Connections that are closed gently, and in time."""

import asyncio
from typing import Any

from prometheus_client import Counter

from service.settings import Settings
from service.telemetry.metrics import ClosedConnection

# A stopping server waits so long for the rest of what it has refused.
_LAST_SECONDS = 1.0


class LingeringTransport:
    """A transport that is closed once the client has sent all, and at once only for reading.

    The kernel resets a connection that is closed with bytes unread, and a client that is still
    sending then never sees its answer. One that does not send or read the rest is given up.

    Attributes:
        receiving: whether the client is in the middle of a request. Told by the connection: a
            transport that knew it would keep it, and what a client sent, until the collector of
            cycles comes.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        closed: Counter,
    ) -> None:
        """Takes over a transport; ``closed`` counts, by reason, what is given up."""
        self._transport = transport
        self._loop = loop
        self._send_seconds = settings.send_timeout_seconds
        self._rest_seconds = settings.head_timeout_seconds
        self._closed = closed
        self._lingers = False
        self._giving_up: asyncio.TimerHandle | None = None
        self.receiving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Writes nothing more; ends once what was written is read and what is sent has come."""
        if self.is_closing():
            return
        if self._transport.get_write_buffer_size():
            self._give_up_after(self._send_seconds, "slow-reader")
        elif self.receiving:
            self._give_up_after(self._rest_seconds, "slow-request")
        if not self.receiving:
            self._transport.close()
            return
        self._lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()

    def end(self) -> None:
        """The client has sent all that is heard of it."""
        self._transport.close()

    def hurry(self) -> None:
        """The server stops."""
        self._rest_seconds = min(self._rest_seconds, _LAST_SECONDS)
        if self._lingers and not self._transport.get_write_buffer_size():
            self._give_up_after(self._rest_seconds, "slow-request")

    def stop_waiting(self) -> None:
        """The client is not waited for any more."""
        if self._giving_up is not None:
            self._giving_up.cancel()

    def _give_up_after(self, seconds: float, reason: ClosedConnection) -> None:
        self.stop_waiting()
        self._giving_up = self._loop.call_later(seconds, self._give_up, reason)

    def _give_up(self, reason: ClosedConnection) -> None:
        self._closed.labels(reason).inc()
        self._transport.abort()
