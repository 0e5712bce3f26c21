"""Around everything that is carried out: its id, its body limit, its log line and its metrics."""

import asyncio
import contextlib
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError, ClientLeftError, TooManyRequestsError
from service.http.answers import Answered, request_id_of, route_of
from service.http.drain import Drain
from service.http.problems import CUT_SHORT, INTERNAL_ERROR, respond
from service.routes.bodies.validation import whole_number
from service.schemas.answers import Timings
from service.settings import Settings
from service.telemetry.metrics import Metrics

_PIECE_BYTES = 65_536
_CLIENT_LEFT = "client-left"

_log = structlog.get_logger("legrad.request")


class RequestScope:
    """ASGI middleware around the routes."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        answered: Answered,
        settings: Settings,
        drain: Drain,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._answered = answered
        self._drain = drain
        self._max_body_bytes = settings.max_body_bytes
        self._max_bytes_in_progress = settings.max_body_bytes_in_progress
        self._bytes_in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response_headers = MutableHeaders(scope=message)
                self._answered.add_headers(response_headers, request_id)
                if status == 200 and "timings" in state:
                    response_headers["Server-Timing"] = _server_timing(state["timings"])
            await _send_in_pieces(send, message)

        until_sent = contextlib.ExitStack()
        state["until_sent"] = until_sent
        self._drain.requests += 1
        try:
            limited = self._limited(headers, receive, until_sent)
            await self._app(scope, limited, send_with_id)
        except (ClientLeftError, ClientDisconnect):
            # Nobody reads it; the number is what proxies log for a client that left.
            status = 499
            state["problem"] = _CLIENT_LEFT
        except asyncio.CancelledError:
            # The server stops before this request could be answered.
            self._drain.abandoned += 1
            state["problem"] = CUT_SHORT.code
            if status:
                raise
            await respond(CUT_SHORT, scope)(scope, receive, send_with_id)
        except Exception:
            _log.exception("failed", request_id=request_id, route=route_of(scope))
            state["problem"] = INTERNAL_ERROR.code
            if status:
                raise
            await respond(INTERNAL_ERROR, scope)(scope, receive, send_with_id)
        finally:
            until_sent.close()
            self._drain.requests -= 1
            self._answered.note(scope, status, time.perf_counter() - began)

    def _limited(
        self, headers: Headers, receive: Receive, until_sent: contextlib.ExitStack
    ) -> Receive:
        """Receives the body, but no more of it, and of all bodies together, than the limits."""
        limit = self._max_body_bytes
        announced = whole_number(headers.get("content-length", "")) or 0
        received = 0

        until_sent.callback(lambda: self._hold(-received))

        async def limited() -> Message:
            nonlocal received
            if announced > limit:
                raise BodyTooLargeError(
                    f"The body has {announced} bytes; this server accepts {limit}.", field="body"
                )
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._hold(size)
            if received > limit:
                raise BodyTooLargeError(
                    f"The body has more than the {limit} bytes that this server accepts.",
                    field="body",
                )
            if self._bytes_in_progress > self._max_bytes_in_progress:
                raise TooManyRequestsError("The server holds too many bodies; try again later.")
            return message

        return limited

    def _hold(self, body_bytes: int) -> None:
        self._bytes_in_progress += body_bytes
        self._metrics.body_bytes_in_progress.set(self._bytes_in_progress)


def _server_timing(timings: Timings) -> str:
    """https://www.w3.org/TR/server-timing, in milliseconds."""
    return ", ".join(
        f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in timings.model_dump().items()
    )


async def _send_in_pieces(send: Send, message: Message) -> None:
    """Sends each piece of an answer once the client has read most of what came before.

    In one piece all of it would lie in the connection's buffer, and nobody would wait for it.
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
