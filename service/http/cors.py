"""CORS: web pages of other origins that may call this server."""

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.answers import AnswerReporter

_ALLOWED_HEADERS = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Inference-Header-Content-Length",
    "X-Request-ID",
    "X-Request-Timeout-Ms",
    # Tracing libraries of browsers add them to every request.
    "traceparent",
    "tracestate",
)
_EXPOSED_HEADERS = (
    "Inference-Header-Content-Length",
    "X-Request-ID",
    "Retry-After",
    "Server-Timing",
)


def allow_origins(app: FastAPI, origins: tuple[str, ...], reporter: AnswerReporter) -> None:
    """Allow web pages of these origins to call the server; do nothing if there are none.

    CORS credentials stay off: the service uses no cookies, and a page sends its API key itself.
    """
    if origins:
        app.add_middleware(_ReportedCors, origins=origins, reporter=reporter)


class _ReportedCors(CORSMiddleware):
    """CORS middleware that gives preflight requests an id, and counts and logs them."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], reporter: AnswerReporter) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PUT"),
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
        self._reporter = reporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_preflight(scope):
            await self._reporter.respond(self._preflight, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _preflight(self, scope: Scope) -> Response:
        return self.preflight_response(Headers(scope=scope))


def _is_preflight(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    headers = Headers(scope=scope)
    return "origin" in headers and "access-control-request-method" in headers
