"""Connections with limits on time and size, in place of uvicorn's own.

uvicorn closes a connection that stays silent after an answer. But it waits without limit for the
first request, for a head that arrives byte by byte, and for a client that does not read its answer,
and it accepts heads of any size.

This module also mends three faults of uvicorn:

- It loses the body of a request that offers another protocol beside HTTP/1.1, as Java's client and
  curl's ``--http2`` do, and parses the rest of that body as the next request.
- It closes a connection after the answer although the client may still be sending; see
  :mod:`service.server.graceful_close`.
- When a client leaves, it notifies the last request that arrived, not the one in progress.
"""

import asyncio
import time
from collections import deque
from functools import partial
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.server.graceful_close import GracefulTransport
from service.server.waiting import WaitingConnections
from service.settings.values import ConnectionLimits
from service.telemetry.metrics import ClosedConnection, Metrics

_MOST_PIPELINED = 32
_MOST_HEADERS = 100
# Memory of a header's Python objects beside its characters.
_HEADER_BYTES = 100
# Most bytes of one read. The size of a head is checked only after a read is parsed.
_READ_BYTES = 262_144
_MOST_HEAD_BYTES = _READ_BYTES + 65_536
# A body sent in chunks of one byte has a size line and line ends for each byte.
_CHUNKED_BYTES = 8
_SILENT_SECONDS = 10.0

_log = structlog.get_logger("legrad.service")


class _AbortedError(Exception):
    """Ends the parsing of the received bytes."""


class RefusalLog:
    """Logs connections that are refused because too many are open, at most once in a while."""

    def __init__(self) -> None:
        self._refused = 0
        self._silent_until = float("-inf")

    def note(self, most: int) -> None:
        """Note one refused connection."""
        self._refused += 1
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SILENT_SECONDS
            _log.warning("connections refused", count=self._refused, max_connections=most)
            self._refused = 0


class GuardedConnection(HttpToolsProtocol):
    """One connection, with a time limit on each state in which it waits for its client."""

    def __init__(
        self,
        *,
        limits: ConnectionLimits,
        metrics: Metrics,
        refusals: RefusalLog,
        waiting: "WaitingConnections[GuardedConnection]",
        **uvicorn: Any,
    ) -> None:
        super().__init__(**uvicorn)
        self._refusals = refusals
        self._waiting = waiting
        self._limits = limits
        self._closed = metrics.connections_closed
        self._awaiting_request: asyncio.TimerHandle | None = None
        self._awaiting_reader: asyncio.TimerHandle | None = None
        self._aborted = False
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._idle = False
        self._head_bytes = 0
        self._head_known = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; at the limit, close another one that waits for its client."""
        self._graceful = GracefulTransport(transport, self.loop, self._limits, self._closed)
        super().connection_made(self._graceful)  # type: ignore[arg-type]
        self._waiting.add(self._address)
        if len(self.connections) > self._limits.max_connections and not self._make_room():
            self._refusals.note(self._limits.max_connections)
            self._abort("too-many")
        else:
            self._await_request()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. Heads and trailers are limited here, bodies by the application."""
        if self._aborted:
            return
        self._end_idleness()
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._continue_in_http(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self._aborted:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
        if self._head_bytes > _MOST_HEAD_BYTES:
            self._abort("large-head")

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, unless the connection is closing; read no more."""
        self._graceful.receiving = False
        if self.transport.is_closing():
            self._graceful.end()
        elif self._unanswered and not self.cycle.more_body:
            # Answers earlier pipelined requests, then closes the connection.
            self.cycle.keep_alive = False
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Note the beginning of a request."""
        self._end_idleness()
        self._graceful.receiving = True
        if not self._head_known:
            super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header or a trailer; skip the head that :meth:`_continue_in_http` repeats."""
        if self._head_known:
            return
        if len(self.headers) == _MOST_HEADERS:
            self._abort("large-head")
            raise _AbortedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin a request whose head is complete; its body is limited by the request's deadline."""
        self._head_bytes = 0
        if self._head_known:
            self._head_known = False
            return
        self._stop(self._awaiting_request)
        if self.transport.is_closing():
            # The previous answer was the last one on this connection.
            self._aborted = True
            self._graceful.end()
            raise _AbortedError
        if len(self._unanswered) == _MOST_PIPELINED:
            self._abort("too-many")
            raise _AbortedError
        super().on_headers_complete()
        self._waiting.begin_work(self, self._address)
        self._unanswered.append(self.cycle)
        self._read_if_little_is_kept()
        self._await_reader()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of a body, unless the connection is closing."""
        self._head_bytes = max(0, self._head_bytes - _CHUNKED_BYTES * len(body))
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request, unless the parser takes the rest for another protocol."""
        if self.parser.should_upgrade():
            return
        self._graceful.receiving = False
        super().on_message_complete()
        if self.transport.is_closing():
            self._graceful.end()
        elif not self._unanswered:
            # The request was refused before all of it had arrived.
            self._stop(self._awaiting_request)
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self._begin_idleness()

    def _continue_in_http(self, rest: bytes) -> None:
        """Stay with HTTP/1.1, as a server may if it is offered another protocol (RFC 9110, 7.8).

        The parser always stops here, so a new parser that knows the length of the body replaces it.
        """
        head = [b"POST / HTTP/1.1"]
        head += [
            name + b": " + value
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._head_known = True
        self.data_received(b"\r\n".join((*head, b"", rest)))

    def pause_writing(self) -> None:
        """Limit the time in which a slow client reads its answer."""
        super().pause_writing()
        self._await_reader()

    def on_response_complete(self) -> None:
        """End an answer; the client has read all of it but what the transport still holds."""
        self._stop(self._awaiting_reader)
        self._awaiting_reader = None
        self._unanswered.popleft()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        self._read_if_little_is_kept()
        if self._unanswered:
            self._await_reader()
        elif self._graceful.receiving:
            self._await_request()
        else:
            self._begin_idleness()

    def shutdown(self) -> None:
        """Close the connection after the answer in progress, because the server stops."""
        self._graceful.shorten_wait()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection and notify the requests in progress that the client has left."""
        self._stop(self._awaiting_request)
        self._stop(self._awaiting_reader)
        self._waiting.remove(self, self._address)
        super().connection_lost(exc)
        self._graceful.stop_waiting()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._unanswered.clear()
        # A reference cycle: it would keep the received bytes until the garbage collector runs.
        self.cycle = None  # type: ignore[assignment]

    def _read_if_little_is_kept(self) -> None:
        """Read unless much is kept already; only reading shows that a client has left."""
        kept = sum(len(cycle.body) for cycle in self._unanswered)
        if len(self._unanswered) > 1:
            kept += sum(map(_head_size, self._unanswered))
        if kept < HIGH_WATER_LIMIT and len(self._unanswered) < _MOST_PIPELINED:
            self.flow.resume_reading()
        else:
            self.flow.pause_reading()

    def _begin_idleness(self) -> None:
        self._idle = True
        self._waiting.begin_idleness(self, self._address)
        self._await_end_of_answer()

    def _end_idleness(self) -> None:
        if self._idle:
            self._idle = False
            self._stop(self._awaiting_reader)
            self._awaiting_reader = None
            self._await_request()

    def _await_request(self) -> None:
        # Also limits the time for the rest of a refused body.
        self._waiting.await_head(self, self._address)
        self._unset_keepalive_if_required()
        self._awaiting_request = self.loop.call_later(
            self._limits.head_seconds, self._abort, "slow-request"
        )

    def _await_reader(self) -> None:
        # Also for an answer that cannot begin because the client has not read the previous one.
        if self._awaiting_reader is None and self._unanswered and self.flow.write_paused:
            self._awaiting_reader = self.loop.call_later(
                self._limits.send_seconds, self._abort, "slow-reader"
            )

    def _await_end_of_answer(self) -> None:
        """Limit the time in which the client reads what the transport still holds."""
        if self.transport.get_write_buffer_size():
            self._awaiting_reader = self.loop.call_later(
                self._limits.send_seconds, self._abort_unread
            )

    def _abort_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self._abort("slow-reader")

    def _make_room(self) -> bool:
        """Close a connection in favour of this one; return False if none gives way."""
        choice = self._waiting.choose(self._address)
        if choice is None:
            return False
        other, is_idle = choice
        self._waiting.begin_work(other, other._address)
        if is_idle:
            other._idle = False
            self._closed.labels("idle").inc()
            other.transport.close()
        else:
            other._abort("too-many")
        return True

    @property
    def has_unread_answer(self) -> bool:
        """Whether the client has not read all of the last answer."""
        return bool(self.transport.get_write_buffer_size())

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def _abort(self, reason: ClosedConnection) -> None:
        if not self._aborted:
            self._aborted = True
            self._closed.labels(reason).inc()
            # close() would wait until the client has read the rest.
            self.transport.abort()


def _head_size(cycle: RequestResponseCycle) -> int:
    headers = cycle.scope["headers"]
    return sum(len(name) + len(value) + _HEADER_BYTES for name, value in headers)


def guarded(limits: ConnectionLimits, metrics: Metrics) -> Any:
    """Return the connection class for uvicorn, with its limits and metrics bound."""
    waiting: WaitingConnections[GuardedConnection] = WaitingConnections()
    return partial(
        GuardedConnection, limits=limits, metrics=metrics, refusals=RefusalLog(), waiting=waiting
    )
