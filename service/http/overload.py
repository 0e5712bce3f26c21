"""What a full server says, before it takes a request apart."""

import time
from collections.abc import Iterable
from functools import partial

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.batching import QueueFullError
from service.errors import TooManyRequestsError
from service.explaining.service import ExplainingService
from service.http.access import EXPLAIN, AccessControl
from service.http.access_routes import AccessRoute
from service.http.answers import Answered
from service.http.problems import Problem, describe, respond
from service.routes.requests import timeout_of
from service.settings import Settings

_METHODS = frozenset(("POST", "PUT"))

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
        access: AccessControl,
        answered: Answered,
        settings: Settings,
    ) -> None:
        self._app = app
        self._access = access
        self._answered = answered
        self._settings = settings
        self._routes = [
            route
            for route in routes
            if isinstance(route, AccessRoute)
            and route.needs == EXPLAIN
            and not _METHODS.isdisjoint(route.methods or ())
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; what there is room for passes through."""
        route = self._explains(scope)
        problem = None if route is None else self._no_room(scope)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            scope["route"] = route
            scope.setdefault("state", {})["problem"] = problem.code
            await self._answered.respond(partial(respond, problem), scope, receive, send)

    def _explains(self, scope: Scope) -> AccessRoute | None:
        if scope["type"] != "http" or scope["method"] not in _METHODS:
            return None
        if not self._access.answers(scope, EXPLAIN):
            return None
        return next((route for route in self._routes if _takes(route, scope)), None)

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


def _takes(route: AccessRoute, scope: Scope) -> bool:
    methods = route.methods or ()
    return scope["method"] in methods and route.path_regex.match(scope["path"]) is not None
