"""What a full server says, before it takes a request apart."""

import time
from collections.abc import Iterable

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.control import EXPLAIN
from service.access.routing import AccessRoute
from service.answered import Answered, request_id_of
from service.batching import QueueFullError
from service.explaining import ExplainingService
from service.problems import Problem, TooManyRequestsError, describe, respond
from service.routes.accepting import timeout_of
from service.settings import Settings

_log = structlog.get_logger("legrad.request")


class Shedding:
    """ASGI middleware that refuses, in its route's place, what could not be carried out.

    Under too much load nearly every request ends here, and what that costs is lost to the model.
    So it is before everything that only an answer of its own needs, and the request is not routed,
    not asked for its key, and nothing of its body is awaited.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[Route],
        answered: Answered,
        settings: Settings,
    ) -> None:
        self._app = app
        self._answered = answered
        self._settings = settings
        self._routes = [
            route
            for route in routes
            if isinstance(route, AccessRoute)
            and route.needs == EXPLAIN
            and "POST" in (route.methods or ())
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; what there is room for passes through."""
        route = self._explains(scope)
        problem = None if route is None else self._no_room(scope)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            scope["route"] = route
            await self._refuse(problem, scope, receive, send)

    def _explains(self, scope: Scope) -> AccessRoute | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        path = scope["path"]
        return next((route for route in self._routes if route.path_regex.match(path)), None)

    def _no_room(self, scope: Scope) -> Problem | None:
        explaining: ExplainingService = scope["app"].state.explaining
        try:
            timeout = timeout_of(Headers(scope=scope), self._settings)
            explaining.check_room(time.monotonic() + timeout)
        except (QueueFullError, TooManyRequestsError) as error:
            return describe(error)
        except RequestValidationError:
            pass  # The route says what is wrong with it.
        except Exception:
            # Out here nothing would answer or count it, and the route refuses what it must as well.
            _log.exception("cannot tell whether there is room")
        return None

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        request_id = request_id_of(Headers(scope=scope))
        scope.setdefault("state", {}).update(request_id=request_id, problem=problem.code)
        response = respond(problem, scope)
        self._answered.add_headers(response.headers, request_id)
        try:
            await response(scope, receive, send)
        finally:
            self._answered.note(scope, problem.status, time.perf_counter() - began)
