"""Connections that cost this server memory or a descriptor and bring it nothing are closed.

uvicorn closes a connection that stays silent after an answer. It waits for ever for the first
request, for a head that arrives in drops, and for a client that does not read its answer, and it
takes heads of any size.

It also loses the body of a request that offers another protocol beside HTTP/1.1, as Java's client
and curl's ``--http2`` do, and takes what arrives of it later for the next request. Where it closes
a connection after its answer, it does so while a client may still be sending. And of a client that
leaves it tells the last request that came, not the one that is being answered.
"""

import asyncio
import itertools
import sys
from collections import deque
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.metrics import ClosedConnection, Metrics
from service.settings import Settings

_MOST_PIPELINED = 32
# One read may bring so much at once; what is parsed of it is known only afterwards.
_READ_BYTES = 262_144
_MOST_HEAD_BYTES = _READ_BYTES + 65_536
# A byte of a body may bring along the size and the ends of a chunk of its own.
_CHUNKED_BYTES = 8
# A stopping server waits so long for the rest of what it has refused.
_LAST_SECONDS = 1.0

IDLE_SECONDS = 75
"""How long a connection may stay silent after an answer: longer than the minute for which balancers
keep theirs, so that it is never this server that closes one which a request is on its way to."""

# Counted: the event loop's clock has one time for many connections.
_turns = itertools.count()


class _LingeringTransport:
    """A transport that is closed once the client has sent all, and at once only for reading.

    The kernel resets a connection that is closed with bytes unread, and a client that is still
    sending then never sees its answer. How long that may take is bounded by the connection's timer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.lingers = False
        # Told by the connection: a transport that knew it would keep it, and what a client sent,
        # until the collector of cycles comes.
        self.receiving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self.receiving:
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()


class GuardedConnection(HttpToolsProtocol):
    """One connection, with a limit on each state in which it waits for its client."""

    def __init__(self, *, settings: Settings, metrics: Metrics, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._settings = settings
        self._closed = metrics.connections_closed
        self._awaiting_request: asyncio.TimerHandle | None = None
        self._awaiting_reader: asyncio.TimerHandle | None = None
        self._given_up = False
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._idle_turn: int | None = None
        self._head_bytes = 0
        self._data = b""
        self._head_known = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, if need be in the place of the one that was idle for longest."""
        self._lingering = _LingeringTransport(transport)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        if len(self.connections) > self._settings.max_connections and not self._close_idle():
            self._abort("too-many")
        else:
            self._await_request()

    def data_received(self, data: bytes) -> None:
        """Parses what arrived; heads and trailers are limited here, bodies by the application."""
        self._end_idleness()
        self._head_bytes += len(data)
        self._data = data
        super().data_received(data)
        if self._head_bytes > _MOST_HEAD_BYTES:
            self._abort("large-head")

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, unless it is refused already; no more of it can be read."""
        self._lingering.receiving = False
        if self.transport.is_closing():
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._end_idleness()
        self._lingering.receiving = True
        if not self._head_known:
            super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived, or a trailer."""
        if not self._head_known:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of a request has arrived; its body is limited by the request's deadline."""
        self._head_bytes = 0
        if self._head_known:
            self._head_known = False
            return
        self._stop(self._awaiting_request)
        if len(self._unanswered) == _MOST_PIPELINED:
            self._abort("too-many")
        else:
            super().on_headers_complete()
            self._unanswered.append(self.cycle)
            # uvicorn reads no further while a request waits for the one before it, and would not
            # see that the client leaves. What is read meanwhile is kept.
            kept = sum(len(cycle.body) for cycle in self._unanswered)
            if kept < HIGH_WATER_LIMIT and len(self._unanswered) < _MOST_PIPELINED:
                self.flow.resume_reading()
            self._await_reader()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._head_bytes = max(0, self._head_bytes - _CHUNKED_BYTES * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request has arrived, unless the parser expects another protocol to follow."""
        if self.parser.should_upgrade():
            return
        self._lingering.receiving = False
        super().on_message_complete()
        if self.transport.is_closing():
            self.transport.close()
        elif not self._unanswered:
            # Refused before all of it had arrived.
            self._stop(self._awaiting_request)
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self._begin_idleness()

    def _unsupported_upgrade_warning(self) -> None:
        """Goes on in HTTP/1.1, as a server may that is offered another protocol (RFC 9110, 7.8).

        The parser has no such choice: another one is told the length of the body, and goes on.
        """
        error = sys.exception()
        if self._given_up or not isinstance(error, httptools.HttpParserUpgrade):
            return
        head = [b"POST / HTTP/1.1"]
        head += [
            name + b": " + value
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        self._head_known = True
        self.data_received(b"\r\n".join((*head, b"", self._data[error.args[0] :])))

    def pause_writing(self) -> None:
        """The client does not read as fast as its answer is written."""
        super().pause_writing()
        self._await_reader()

    def on_response_complete(self) -> None:
        """All of an answer but what the transport holds has been read."""
        self._stop(self._awaiting_reader)
        self._awaiting_reader = None
        self._unanswered.popleft()
        super().on_response_complete()
        if self._unanswered:
            self._await_reader()
        elif self._lingering.receiving:
            self._await_request()
        else:
            self._begin_idleness()

    def shutdown(self) -> None:
        """The server stops: what is being answered is the last, and what was refused is closed."""
        super().shutdown()
        if self._lingering.lingers and not self.transport.get_write_buffer_size():
            self._stop(self._awaiting_request)
            self._awaiting_request = self.loop.call_later(
                _LAST_SECONDS, self._abort, "slow-request"
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of the connection, and has those know it who still work for it."""
        self._stop(self._awaiting_request)
        self._stop(self._awaiting_reader)
        super().connection_lost(exc)
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._unanswered.clear()
        # It knows this connection: together they would keep what the client sent until the
        # collector of cycles comes.
        self.cycle = None  # type: ignore[assignment]

    def _begin_idleness(self) -> None:
        self._idle_turn = next(_turns)
        self._await_end_of_answer()

    def _end_idleness(self) -> None:
        if self._idle_turn is not None:
            self._idle_turn = None
            self._stop(self._awaiting_reader)
            self._awaiting_reader = None
            self._unset_keepalive_if_required()
            self._await_request()

    def _await_request(self) -> None:
        # Also bounds how long the rest of a refused body may take.
        self._awaiting_request = self.loop.call_later(
            self._settings.head_timeout_seconds, self._abort, "slow-request"
        )

    def _await_reader(self) -> None:
        # Also for an answer that cannot begin: its client has not read the end of the last one.
        if self._awaiting_reader is None and self._unanswered and self.flow.write_paused:
            self._awaiting_reader = self.loop.call_later(
                self._settings.send_timeout_seconds, self._abort, "slow-reader"
            )

    def _await_end_of_answer(self) -> None:
        """The last of it is in the transport, which would wait for ever until it is read."""
        if self.transport.get_write_buffer_size():
            self._awaiting_reader = self.loop.call_later(
                self._settings.send_timeout_seconds, self._abort_unread
            )

    def _abort_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self._abort("slow-reader")

    def _close_idle(self) -> bool:
        """Makes room: a client that has its answer loses nothing. Whether there was one."""
        idle = {
            connection._idle_turn: connection
            for connection in self.connections
            if isinstance(connection, GuardedConnection)
            and connection._idle_turn is not None
            and not connection.transport.get_write_buffer_size()
        }
        if not idle:
            return False
        oldest = idle[min(idle)]
        oldest._idle_turn = None
        self._closed.labels("idle").inc()
        oldest.transport.close()
        return True

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def _abort(self, reason: ClosedConnection) -> None:
        if not self._given_up:
            self._given_up = True
            self._closed.labels(reason).inc()
            # Not closed: that waits until the client has read what is left.
            self.transport.abort()


def guarded(settings: Settings, metrics: Metrics) -> Any:
    """What uvicorn makes its connections with."""
    return partial(GuardedConnection, settings=settings, metrics=metrics)
