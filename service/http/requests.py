"""Middleware for trace, request id, body limits, unexpected errors, log line and metrics."""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from service.errors import ClientLeftError, LongPathError
from service.http.answers import AnswerReporter, problem_response
from service.http.application import application_of
from service.http.bodies import BodyBudget
from service.http.drain import Drain
from service.http.problems import CUT_SHORT, INTERNAL_ERROR, WRONG_HOST, Problem, describe
from service.http.record import RequestRecord, record_of, route_of
from service.telemetry.tracing import Tracing

_PIECE_BYTES = 65_536
_CLIENT_LEFT = "client-left"
# Far more than the longest of the routes, with the name of a model, has.
_LONGEST_PATH = 2048
# https://www.w3.org/TR/trace-context: ids of zeros and version ff are invalid; later versions may
# append fields.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)

_log = structlog.get_logger("legrad.request")


class RequestMiddleware:
    """ASGI middleware around the routes.

    It adds the headers of every answer, limits and decompresses bodies, answers unexpected errors
    and requests cut short by a shutdown, and reports each request to metrics and log.
    """

    def __init__(
        self,
        app: ASGIApp,
        bodies: BodyBudget,
        reporter: AnswerReporter,
        drain: Drain,
    ) -> None:
        self._app = app
        self._bodies = bodies
        self._reporter = reporter
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass other scopes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        began = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response_headers = MutableHeaders(scope=message)
                self._reporter.add_headers(response_headers, record)
                if status == 200 and record.timings is not None:
                    response_headers["Server-Timing"] = _server_timing(record.timings)
            await _send_in_pieces(send, message)

        self._drain.requests += 1
        owner = partial(application_of(scope["app"]).access.owner, scope)
        limited = self._bodies.limited(record.headers, receive, owner, record.until_sent)
        try:
            await self._app(scope, limited, send_with_id)
        except (ClientLeftError, ClientDisconnect):
            # Never sent: proxies log 499 for a client that closed the connection.
            status = 499
            record.problem = _CLIENT_LEFT
        except asyncio.CancelledError:
            if not self._drain.announced:
                # Some servers cancel a request when its client leaves.
                status = 499
                record.problem = _CLIENT_LEFT
                raise
            # The server shuts down before the request is answered.
            self._drain.abandoned += 1
            record.problem = CUT_SHORT.code
            if status:
                raise
            await problem_response(CUT_SHORT, scope)(scope, receive, send_with_id)
        except Exception:
            _log.exception("failed", request_id=record.request_id, route=route_of(scope))
            record.problem = INTERNAL_ERROR.code
            if status:
                raise
            await problem_response(INTERNAL_ERROR, scope)(scope, receive, send_with_id)
        finally:
            record.until_sent.close()
            self._drain.requests -= 1
            self._reporter.report(scope, status, time.perf_counter() - began)


class SoundHead:
    """ASGI middleware that refuses requests with no ``Host`` header, with two, or with a long path.

    Outside all layers that answer. A proxy and this server may disagree on the end of a request
    without one host, so its connection is closed whatever else would be wrong with it. And the
    layers inside compare the path with those of all routes.
    """

    def __init__(self, app: ASGIApp, reporter: AnswerReporter) -> None:
        self._app = app
        self._reporter = reporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass other scopes through."""
        if scope["type"] == "http":
            record = record_of(scope)
            fault = _fault_of_head(scope, record)
            if fault is not None:
                record.problem = fault.code
                respond = partial(problem_response, fault)
                await self._reporter.respond(respond, scope, receive, send)
                return
        await self._app(scope, receive, send)


def _fault_of_head(scope: Scope, record: RequestRecord) -> Problem | None:
    if scope["http_version"] == "1.1" and len(record.headers.getlist("host")) != 1:
        return WRONG_HOST
    if len(scope.get("raw_path") or scope["path"]) <= _LONGEST_PATH:
        return None
    return describe(
        LongPathError(
            f"The path has more than {_LONGEST_PATH} characters: send prompts and pictures in the "
            "body."
        )
    )


def _server_timing(seconds: Mapping[str, float]) -> str:
    """Return a ``Server-Timing`` value (https://www.w3.org/TR/server-timing), in milliseconds."""
    return ", ".join(f"{stage};dur={1000 * taken:.1f}" for stage, taken in seconds.items())


async def _send_in_pieces(send: Send, message: Message) -> None:
    """Send an answer in pieces, each once the client has read most of the earlier ones.

    In one piece, the whole answer would go into the connection's buffer at once, without waiting
    for the client.
    """
    body: bytes = message.get("body", b"")
    if len(body) <= _PIECE_BYTES:
        await send(message)
        return
    for start in range(0, len(body), _PIECE_BYTES):
        last = start + _PIECE_BYTES >= len(body)
        await send(
            {
                "type": message["type"],
                "body": body[start : start + _PIECE_BYTES],
                "more_body": not last or message.get("more_body", False),
            }
        )


class TraceMiddleware:
    """ASGI middleware that starts a request's span and binds its trace id to its log lines."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass other scopes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        headers = record.headers
        with self._tracing.request(scope["method"], scope["scheme"], headers) as trace:
            # Log lines name the caller's trace even if this server records none.
            trace_id = trace.trace_id or caller_trace_id(headers)
            known = nullcontext() if trace_id is None else bound_contextvars(trace_id=trace_id)
            try:
                with known:
                    await self._app(scope, receive, _with_headers(send, trace.headers))
            finally:
                route = getattr(scope.get("route"), "path", None)
                status = 500 if record.status is None else record.status
                trace.answered(route, status, record.problem)


def _with_headers(send: Send, added: Mapping[str, str]) -> Send:
    if not added:
        return send

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(added)
        await send(message)

    return send_with_headers


def caller_trace_id(headers: Headers) -> str | None:
    """Return the trace id in the request's ``traceparent``; None without a valid one."""
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    return None if found is None else found[1]
