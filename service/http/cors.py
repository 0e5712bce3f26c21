"""Which web pages of other origins may ask."""

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.answers import Answered

_ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-Request-ID", "X-Request-Timeout-Ms")
_EXPOSED_HEADERS = ("X-Request-ID", "Retry-After", "Server-Timing")


def allow_origins(app: FastAPI, origins: tuple[str, ...], answered: Answered) -> None:
    """Lets pages of these origins ask; does nothing if there are none.

    Never with credentials: a browser has no cookies for this service that a page could misuse, and
    keys are sent by whoever has them.
    """
    if origins:
        app.add_middleware(_OtherOrigins, origins=origins, answered=answered)


class _OtherOrigins(CORSMiddleware):
    """What browsers ask before they send a request is a request too: it has an id and is noted."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], answered: Answered) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_preflight(scope):
            await self._answered.respond(self._preflight, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _preflight(self, scope: Scope) -> Response:
        return self.preflight_response(Headers(scope=scope))


def _is_preflight(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    headers = Headers(scope=scope)
    return "origin" in headers and "access-control-request-method" in headers
