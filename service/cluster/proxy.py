"""Middleware for Ray Serve's HTTP proxies: one request id, and typed errors of Ray's own.

Ray's proxies load it if the environment variable ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` is
``service.cluster.proxy:middlewares``. It runs in front of every application of the cluster.
"""

import structlog
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.headers import REQUEST_ID_HEADER
from service.http.problems import INTERNAL_ERROR, MEDIA_TYPE, Problem, body_of
from service.http.record import random_id, valid_request_id

# Ray's paths for its own health and routes, which its controller and balancers read.
_RAYS_PATHS = "/-/"
# By these, callers could turn off their request's time limit or the end of its work once they
# leave, or choose the replica.
_RAYS_HEADERS = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)
_LEAST_ERROR = 400

# The same words as in docker/haproxy/haproxy.cfg.
_LOST = Problem(
    502,
    "replica-lost",
    "The replica was lost",
    "The replica ended before it had answered. The same request may be sent again.",
    headers={"Retry-After": "1"},
)
_OF_RAY = {
    404: Problem(
        404,
        "not-deployed",
        "No application is deployed here",
        "Ray Serve has no application at this path, or has not deployed it yet.",
    ),
    408: Problem(
        408,
        "replica-silent",
        "The replica did not answer",
        "The replica did not answer within request_timeout_s of Ray Serve.",
    ),
    429: Problem(
        429,
        "too-many-requests",
        "The server is busy",
        "Too many requests wait for a replica. Try again later.",
        headers={"Retry-After": "1"},
    ),
    503: Problem(
        503,
        "no-replica",
        "No replica is ready",
        "No replica can answer now. Try again later.",
        headers={"Retry-After": "2"},
    ),
}

_log = structlog.get_logger("legrad.request")


def middlewares() -> list[Middleware]:
    """Return the middleware, for Ray's proxies."""
    return [Middleware(TypedErrors)]


class TypedErrors:
    """Gives a request one valid id, and Ray's own errors the form of the service's errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass other scopes through."""
        if scope["type"] != "http" or scope["path"].startswith(_RAYS_PATHS):
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        given = headers.getlist(REQUEST_ID_HEADER)
        request_id = given[0] if len(given) == 1 and valid_request_id(given[0]) else random_id()
        headers[REQUEST_ID_HEADER] = request_id
        for name in _RAYS_HEADERS:
            del headers[name]
        begun = replaced = False

        async def answer(problem: Problem) -> None:
            content = body_of(problem, scope["path"], request_id)
            added = {**problem.headers, REQUEST_ID_HEADER: request_id, "Cache-Control": "no-store"}
            response = JSONResponse(content, problem.status, added, MEDIA_TYPE)
            await response(scope, receive, send)

        async def send_typed(message: Message) -> None:
            nonlocal begun, replaced
            if message["type"] == "http.response.start":
                begun = True
                problem = _problem_of_ray(message)
                replaced = problem is not None
                if problem is not None:
                    await answer(problem)
            if not replaced:
                await send(message)

        try:
            await self._app(scope, receive, send_typed)
        except Exception:
            if begun:
                raise
            _log.exception("failed in Ray's proxy", request_id=request_id)
            await answer(INTERNAL_ERROR)
            return
        if not begun:
            # Ray sends nothing where its call to the replica failed; uvicorn would answer 500. If
            # the client has left, this is sent to nobody.
            await answer(_LOST)


def _problem_of_ray(start: Message) -> Problem | None:
    """Return the problem that replaces an error of Ray's own; None for an application's answer.

    Ray writes plain text, and applications of this service JSON.
    """
    kind = MutableHeaders(scope=start).get("content-type", "")
    if start["status"] < _LEAST_ERROR or not kind.startswith("text/plain"):
        return None
    return _OF_RAY.get(start["status"])
