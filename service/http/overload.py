"""Early refusal of explain requests while the server is full."""

import time
from collections.abc import Iterable
from functools import partial

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.batching import QueueFullError
from service.errors import TooManyRequestsError
from service.http.access import EXPLAIN
from service.http.access_routes import AccessRoute, with_encoded_slashes
from service.http.answers import AnswerReporter, problem_response
from service.http.application import application_of
from service.http.problems import Problem, describe
from service.http.record import record_of

_METHODS = frozenset(("POST", "PUT"))

_log = structlog.get_logger("legrad.request")


class OverloadRefusal:
    """ASGI middleware that refuses explain requests while the server is full.

    Under overload nearly every request ends here, and the time spent on it is lost to the model.
    So a request is refused before routing, before its key is asked for and before its body is read.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route], reporter: AnswerReporter) -> None:
        self._app = app
        self._reporter = reporter
        self._routes = [
            route
            for route in routes
            if isinstance(route, AccessRoute)
            and route.needs == EXPLAIN
            and not _METHODS.isdisjoint(route.methods or ())
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        route = self._explain_route(scope)
        problem = None if route is None else _refusal(scope)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            scope["route"] = route
            record_of(scope).problem = problem.code
            await self._reporter.respond(partial(problem_response, problem), scope, receive, send)

    def _explain_route(self, scope: Scope) -> AccessRoute | None:
        """Return the explain route that the request is for, or None."""
        if scope["type"] != "http" or scope["method"] not in _METHODS:
            return None
        if not application_of(scope["app"]).access.answers(scope, EXPLAIN):
            return None
        return next((route for route in self._routes if _matches(route, scope)), None)


def _refusal(scope: Scope) -> Problem | None:
    """Return the problem of a request that would be refused now, else None."""
    application = application_of(scope["app"])
    try:
        timeout = record_of(scope).timeout(application.request_timeout_seconds)
        owner = application.access.owner(scope)
        application.explaining.admission.check(owner, time.monotonic() + timeout)
    except (QueueFullError, TooManyRequestsError) as error:
        return describe(error)
    except RequestValidationError:
        pass  # The route answers it.
    except Exception:
        # No layer outside would answer or count this error, and the route makes the same checks.
        _log.exception("overload check failed")
    return None


def _matches(route: AccessRoute, scope: Scope) -> bool:
    methods = route.methods or ()
    path = with_encoded_slashes(scope)["path"].removeprefix(scope.get("root_path", ""))
    return scope["method"] in methods and route.path_regex.match(path) is not None
