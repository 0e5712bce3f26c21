"""Connections that cost this server memory or a descriptor and bring it nothing are closed.

uvicorn closes a connection that stays silent after an answer. It waits for ever for the first
request, for a head that arrives in drops, and for a client that does not read its answer, and it
takes heads of any size.

It also loses the body of a request that offers another protocol beside HTTP/1.1, as Java's client
and curl's ``--http2`` do, and takes what arrives of it later for the next request. Where it closes
a connection after its answer, it does so while a client may still be sending; for that, see
:mod:`service.server.graceful_close`. And of a client that leaves it tells the last request that
came, not the one that is being answered.
"""

import asyncio
import itertools
from collections import deque
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.server.graceful_close import LingeringTransport
from service.settings import Settings
from service.telemetry.metrics import ClosedConnection, Metrics

_MOST_PIPELINED = 32
_MOST_HEADERS = 100
# What the objects of one need beside its characters.
_HEADER_BYTES = 100
# One read may bring so much at once; what is parsed of it is known only afterwards.
_READ_BYTES = 262_144
_MOST_HEAD_BYTES = _READ_BYTES + 65_536
# A byte of a body may bring along the size and the ends of a chunk of its own.
_CHUNKED_BYTES = 8

IDLE_SECONDS = 75
"""How long a connection may stay silent after an answer: longer than the minute for which balancers
keep theirs, so that it is never this server that closes one which a request is on its way to."""

# Counted: the event loop's clock has one time for many connections.
_turns = itertools.count()


class _GivenUpError(Exception):
    """Ends the parsing of what arrived."""


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
        self._head_known = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, if need be in the place of the one that was idle for longest."""
        self._lingering = LingeringTransport(transport, self.loop, self._settings, self._closed)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        if len(self.connections) > self._settings.max_connections and not self._close_idle():
            self._abort("too-many")
        else:
            self._await_request()

    def data_received(self, data: bytes) -> None:
        """Parses what arrived; heads and trailers are limited here, bodies by the application."""
        if self._given_up:
            return
        self._end_idleness()
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_in_http(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self._given_up:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
        if self._head_bytes > _MOST_HEAD_BYTES:
            self._abort("large-head")

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, unless it is refused already; no more of it can be read."""
        self._lingering.receiving = False
        if self.transport.is_closing():
            self._lingering.end()
        elif self._unanswered and not self.cycle.more_body:
            # What was asked before it is answered first, and last.
            self.cycle.keep_alive = False
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
        if self._head_known:
            return
        if len(self.headers) == _MOST_HEADERS:
            self._abort("large-head")
            raise _GivenUpError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of a request has arrived; its body is limited by the request's deadline."""
        self._head_bytes = 0
        if self._head_known:
            self._head_known = False
            return
        self._stop(self._awaiting_request)
        if self.transport.is_closing():
            # An answer before this one was the last.
            self._given_up = True
            self._lingering.end()
            raise _GivenUpError
        if len(self._unanswered) == _MOST_PIPELINED:
            self._abort("too-many")
            raise _GivenUpError
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        self._read_on()
        self._await_reader()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._head_bytes = max(0, self._head_bytes - _CHUNKED_BYTES * len(body))
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request has arrived, unless the parser expects another protocol to follow."""
        if self.parser.should_upgrade():
            return
        self._lingering.receiving = False
        super().on_message_complete()
        if self.transport.is_closing():
            self._lingering.end()
        elif not self._unanswered:
            # Refused before all of it had arrived.
            self._stop(self._awaiting_request)
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self._begin_idleness()

    def _go_on_in_http(self, rest: bytes) -> None:
        """Goes on in HTTP/1.1, as a server may that is offered another protocol (RFC 9110, 7.8).

        The parser has no such choice: another one is told the length of the body, and goes on.
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
        """The client does not read as fast as its answer is written."""
        super().pause_writing()
        self._await_reader()

    def on_response_complete(self) -> None:
        """All of an answer but what the transport holds has been read."""
        self._stop(self._awaiting_reader)
        self._awaiting_reader = None
        self._unanswered.popleft()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        self._read_on()
        if self._unanswered:
            self._await_reader()
        elif self._lingering.receiving:
            self._await_request()
        else:
            self._begin_idleness()

    def shutdown(self) -> None:
        """The server stops: what is being answered is the last."""
        self._lingering.hurry()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of the connection, and has those know it who still work for it."""
        self._stop(self._awaiting_request)
        self._stop(self._awaiting_reader)
        super().connection_lost(exc)
        self._lingering.stop_waiting()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._unanswered.clear()
        # It knows this connection: together they would keep what the client sent until the
        # collector of cycles comes.
        self.cycle = None  # type: ignore[assignment]

    def _read_on(self) -> None:
        """Reads, if little waits: a client that leaves is seen by reading alone."""
        kept = sum(len(cycle.body) for cycle in self._unanswered)
        if len(self._unanswered) > 1:
            kept += sum(map(_head_size, self._unanswered))
        if kept < HIGH_WATER_LIMIT and len(self._unanswered) < _MOST_PIPELINED:
            self.flow.resume_reading()
        else:
            self.flow.pause_reading()

    def _begin_idleness(self) -> None:
        self._idle_turn = next(_turns)
        self._await_end_of_answer()

    def _end_idleness(self) -> None:
        if self._idle_turn is not None:
            self._idle_turn = None
            self._stop(self._awaiting_reader)
            self._awaiting_reader = None
            self._await_request()

    def _await_request(self) -> None:
        # Also bounds how long the rest of a refused body may take.
        self._unset_keepalive_if_required()
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


def _head_size(cycle: RequestResponseCycle) -> int:
    headers = cycle.scope["headers"]
    return sum(len(name) + len(value) + _HEADER_BYTES for name, value in headers)


def guarded(settings: Settings, metrics: Metrics) -> Any:
    """What uvicorn makes its connections with."""
    return partial(GuardedConnection, settings=settings, metrics=metrics)
