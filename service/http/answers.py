"""Answers: problem responses, and the headers, metrics and log line of every answer."""

import dataclasses
import functools
import logging
import re
import time
from collections.abc import Callable

import structlog
from fastapi import Request
from prometheus_client import Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service.http.application import application_of
from service.http.drain import Drain
from service.http.headers import REQUEST_ID_HEADER
from service.http.problems import MEDIA_TYPE, ErrorForm, Problem, body_of, describe
from service.http.record import RequestRecord, record_of, route_of
from service.telemetry.metrics import REJECTION_REASONS, Metrics

# Paths with the name of a model.
_UNDER_MODELS = re.compile(r"/(?:models|explanations)/.")

_log = structlog.get_logger("legrad.request")


class AnswerReporter:
    """Adds the common headers to answers; counts and logs them."""

    def __init__(self, metrics: Metrics, slow_request_seconds: float, drain: Drain) -> None:
        self._slow_seconds = slow_request_seconds
        self._drain = drain
        self._rejected = metrics.rejected

        # Cached, because ``labels`` takes a lock at each call.
        @functools.cache
        def counted(route: str, status: int) -> tuple[Counter, Histogram]:
            return (
                metrics.requests.labels(route, str(status)),
                metrics.request_duration.labels(route),
            )

        self._counted = counted

    def add_headers(self, headers: MutableHeaders, record: RequestRecord) -> None:
        """Add the headers that every answer has."""
        headers[REQUEST_ID_HEADER] = record.request_id
        if self._drain.announced:
            # The client reconnects for its next request, and reaches a server that keeps running.
            headers["Connection"] = "close"

    async def respond(
        self, make: Callable[[Scope], Response], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request without passing it to a route.

        Args:
            make: makes the response from the scope.
            scope: the request's ASGI scope.
            receive: not used: the body is not read.
            send: sends the response.
        """
        began = time.perf_counter()
        response = make(scope)
        self.add_headers(response.headers, record_of(scope))
        try:
            await response(scope, receive, send)
        finally:
            self.report(scope, response.status_code, time.perf_counter() - began)

    def report(self, scope: Scope, status: int, seconds: float) -> None:
        """Count and log one answer.

        Args:
            scope: the request's ASGI scope.
            status: HTTP status of the answer.
            seconds: duration of the request.
        """
        record = record_of(scope)
        record.status = status
        route = route_of(scope)
        count, durations = self._counted(route, status)
        count.inc()
        durations.observe(seconds)
        if record.problem in REJECTION_REASONS:
            self._rejected.labels(record.problem).inc()
        slow = seconds > self._slow_seconds
        stages = {} if record.stages is None else record.stages.seconds
        _log.log(
            logging.WARNING if slow else logging.INFO,
            "answered slowly" if slow else "answered",
            request_id=record.request_id,
            method=scope["method"],
            route=route,
            status=status,
            seconds=round(seconds, 6),
            model=record.model,
            problem=record.problem,
            client=scope["client"] and scope["client"][0],
            key=record.key,
            timings={stage: round(taken, 6) for stage, taken in stages.items()},
        )


def problem_response(problem: Problem, scope: Scope) -> JSONResponse:
    """Return the response for a problem, in the error form of the route's protocol."""
    request_id = record_of(scope).request_id
    form: ErrorForm | None = getattr(scope.get("route"), "error_form", None)
    return JSONResponse(
        body_of(problem, scope["path"], request_id) if form is None else form(problem, request_id),
        problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE if form is None else "application/json",
    )


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an expected error.

    Raises:
        Exception: the error, if it is a bug; ``RequestMiddleware`` logs it.
    """
    problem = describe(error)
    if problem is None:
        raise error
    if problem.status == 405:
        allow = _methods_of(request, problem.headers.get("Allow", ""))
        problem = dataclasses.replace(
            problem,
            detail=f"This path accepts {allow}; see /docs.",
            headers={"Allow": allow},
        )
    elif isinstance(error, HTTPException) and _UNDER_MODELS.search(request.scope["path"]):
        hint = "Write a slash in the name of a model as %2F, or use its id from /models."
        problem = dataclasses.replace(problem, detail=f"{problem.detail} {hint}")
    record_of(request.scope).problem = problem.code
    return problem_response(problem, request.scope)


def _methods_of(request: Request, named: str) -> str:
    """Return the methods of all routes at the request's path, as an ``Allow`` header.

    Args:
        request: the request.
        named: the methods of the one route that refused it, for a path that no route has.
    """
    routes = application_of(request.app).routes
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    # `/v1/models/{id}` also matches requests for `/v1/models/{id}:explain`.
    meant = max((route.path for route in matching), key=len, default="")
    methods = {
        method for route in matching if route.path == meant for method in route.methods or ()
    }
    return ", ".join(sorted(methods)) or named
