"""Outermost middleware: the trace of a request, for its spans and its log lines."""

import re
from collections.abc import Mapping
from contextlib import nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from service.http.record import record_of
from service.telemetry.tracing import Tracing

# https://www.w3.org/TR/trace-context: ids of zeros and version ff are invalid; later versions may
# append fields.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
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
