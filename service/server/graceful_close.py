"""A graceful and timely close of connections."""

import asyncio
from typing import Any

from prometheus_client import Counter

from service.settings.values import ConnectionLimits
from service.telemetry.metrics import ClosedConnection

# Longest wait of a stopping server for the rest of a refused request.
_STOPPING_REST_SECONDS = 1.0


class GracefulTransport:
    """A transport that closes only after the client has sent all of its request.

    The kernel resets a connection that is closed with unread bytes, and a client that is still
    sending then never sees its answer. So :meth:`close` ends writing at once, but keeps reading
    until the request is complete. A client that does not send or read the rest in time is aborted.

    Attributes:
        receiving: whether the client is in the middle of a request. Set by the connection; a
            reference to the connection would be a cycle, which would keep the received bytes until
            the garbage collector runs.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        closed: Counter,
    ) -> None:
        """Wrap a transport; ``closed`` counts aborted connections by reason."""
        self._transport = transport
        self._loop = loop
        self._send_seconds = limits.send_seconds
        self._rest_seconds = limits.head_seconds
        self._closed = closed
        self._half_closed = False
        self._abort_timer: asyncio.TimerHandle | None = None
        self.receiving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._half_closed or self._transport.is_closing()

    def close(self) -> None:
        """End writing; close once the client has read the answer and sent the rest."""
        if self.is_closing():
            return
        if self._transport.get_write_buffer_size():
            self._abort_after(self._send_seconds, "slow-reader")
        elif self.receiving:
            self._abort_after(self._rest_seconds, "slow-request")
        if not self.receiving:
            self._transport.close()
            return
        self._half_closed = True
        self._transport.write_eof()
        self._transport.resume_reading()

    def end(self) -> None:
        """Close the transport: the client has sent everything that is read."""
        self._transport.close()

    def shorten_wait(self) -> None:
        """Wait only briefly for the rest of a refused request, because the server stops."""
        self._rest_seconds = min(self._rest_seconds, _STOPPING_REST_SECONDS)
        if self._half_closed and not self._transport.get_write_buffer_size():
            self._abort_after(self._rest_seconds, "slow-request")

    def stop_waiting(self) -> None:
        """Stop the timer that would abort the connection."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    def _abort_after(self, seconds: float, reason: ClosedConnection) -> None:
        self.stop_waiting()
        self._abort_timer = self._loop.call_later(seconds, self._abort, reason)

    def _abort(self, reason: ClosedConnection) -> None:
        self._closed.labels(reason).inc()
        self._transport.abort()
