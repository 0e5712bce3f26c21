"""What every answer has in common: its request's id, its metrics and its log line."""

import functools
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.http.drain import Drain
from service.settings import Settings
from service.telemetry.metrics import REJECTION_REASONS, UNMATCHED_ROUTE, Metrics

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUEST_ID_BYTES = 16

_log = structlog.get_logger("legrad.request")


def request_id_of(headers: Headers) -> str:
    """The id that the caller gave its request, if it can be one; else 32 random digits."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(_REQUEST_ID_BYTES)


def route_of(scope: Scope) -> str:
    """The template of the path, never the path: that is the caller's."""
    route: str = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
    return route


class Answered:
    """Adds headers to answers, counts and logs them."""

    def __init__(self, metrics: Metrics, settings: Settings, drain: Drain) -> None:
        """Nothing was answered yet."""
        self._slow_seconds = settings.slow_request_seconds
        self._drain = drain
        self._rejected = metrics.rejected

        # Of a route and a status these stay the same, and finding them again takes a lock.
        @functools.cache
        def counted(route: str, status: int) -> tuple[Counter, Histogram]:
            return (
                metrics.requests.labels(route, str(status)),
                metrics.request_duration.labels(route),
            )

        self._counted = counted

    def add_headers(self, headers: MutableHeaders, request_id: str) -> None:
        """Adds the headers of every answer."""
        headers["X-Request-ID"] = request_id
        if self._drain.announced:
            # The next request of this client goes to a server that stays.
            headers["Connection"] = "close"

    async def respond(
        self, make: Callable[[Scope], Response], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answers a request that goes no further.

        Args:
            make: makes the response, from the scope with the request's id in its state.
            scope: the request's.
            receive: of its body nothing is read.
            send: sends the response.
        """
        began = time.perf_counter()
        request_id = request_id_of(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        response = make(scope)
        self.add_headers(response.headers, request_id)
        try:
            await response(scope, receive, send)
        finally:
            self.note(scope, response.status_code, time.perf_counter() - began)

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """Notes one answer.

        Args:
            scope: the request's; its state holds the id, and what is known of the answer.
            status: of the answer.
            seconds: that it took.
        """
        state = scope["state"]
        route = route_of(scope)
        state["status"] = status
        problem = state.get("problem")
        count, durations = self._counted(route, status)
        count.inc()
        durations.observe(seconds)
        if problem in REJECTION_REASONS:
            self._rejected.labels(problem).inc()
        slow = seconds > self._slow_seconds
        stages: Mapping[str, float] = state["stages"].seconds if "stages" in state else {}
        _log.log(
            logging.WARNING if slow else logging.INFO,
            "answered slowly" if slow else "answered",
            request_id=state["request_id"],
            method=scope["method"],
            route=route,
            status=status,
            seconds=round(seconds, 6),
            model=state.get("model"),
            problem=problem,
            client=scope["client"] and scope["client"][0],
            key=state.get("key"),
            timings={stage: round(taken, 6) for stage, taken in stages.items()},
        )
