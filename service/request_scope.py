"""The outermost layer of every request: its id, its body limit, its log line and its metrics."""

import asyncio
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders, State
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import REJECTION_REASONS, UNMATCHED_ROUTE, Metrics
from service.problems import INTERNAL_ERROR, BodyTooLargeError, respond
from service.routes.accepting import ClientLeftError

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CLIENT_LEFT = "client-left"
_SHUTTING_DOWN = "shutting-down"

_log = structlog.get_logger("legrad.request")


class RequestScope:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, self._limited(headers, receive), send_with_id)
        except (ClientLeftError, ClientDisconnect):
            # Nobody reads it; the number is what proxies log for a client that left.
            status = 499
            state["problem"] = _CLIENT_LEFT
        except asyncio.CancelledError:
            # The server stops before this request could be answered.
            status = status or 503
            state["problem"] = _SHUTTING_DOWN
            raise
        except Exception:
            _log.exception("failed", request_id=request_id, path=scope["path"])
            state["problem"] = INTERNAL_ERROR.code
            if status:
                raise
            await respond(INTERNAL_ERROR, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            self._record(scope, State(state), status, time.perf_counter() - began)

    def _limited(self, headers: Headers, receive: Receive) -> Receive:
        """Receives the body, but no more of it than the limit."""
        limit = self._max_body_bytes
        length = headers.get("content-length", "")
        received = 0

        async def limited() -> Message:
            nonlocal received
            if length.isascii() and length.isdigit() and int(length) > limit:
                raise BodyTooLargeError(
                    f"The body has {length} bytes; this server accepts {limit}.", field="body"
                )
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLargeError(
                    f"The body has more than the {limit} bytes that this server accepts.",
                    field="body",
                )
            return message

        return limited

    def _record(self, scope: Scope, state: State, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
        problem = getattr(state, "problem", None)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_duration.labels(route).observe(seconds)
        if problem in REJECTION_REASONS:
            self._metrics.rejected.labels(problem).inc()
        _log.info(
            "answered",
            request_id=state.request_id,
            method=scope["method"],
            route=route,
            status=status,
            seconds=round(seconds, 6),
            model=getattr(state, "model", None),
            problem=problem,
        )
