"""The record of one request, shared by the layers that handle it."""

import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import Scope

from service.http.headers import REQUEST_ID_HEADER, single, whole_number
from service.http.problems import invalid
from service.settings.keys import ApiKey
from service.telemetry.metrics import UNMATCHED_ROUTE
from service.telemetry.stages import Stages

TIMEOUT_HEADER = "X-Request-Timeout-Ms"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUEST_ID_BYTES = 16
# Reading from the operating system releases the interpreter's lock, which the event loop then has
# to wait for: under load this takes longer than the rest of the request's record.
_IDS_AT_ONCE = 256
_KEY = "legrad.request"


@dataclass(slots=True)
class RequestRecord:
    """The state of one request, from its headers to its log line.

    Attributes:
        request_id: the caller's ``X-Request-ID`` if it is valid; else 32 random hex digits.
        headers: the request's headers.
        until_sent: callbacks and contexts, closed once the answer is sent.
        owner: name under which it shares the server with other requests; None before it is needed.
        key: name of its API key, if it may have been used.
        key_sought: whether its API key was looked up.
        found_key: the entry of its API key, if that is valid.
        charge: charges the cost of an explanation to that key; None without one.
        model: id of the model that answered.
        stages: the stages that have ended; None before a command is carried out.
        timings: seconds of each stage, for the answer; None before the outcome.
        problem: code of the problem, if the answer is one.
        status: HTTP status of the answer, or 499 for a client that left; None before that.
    """

    request_id: str
    headers: Headers
    until_sent: ExitStack = field(default_factory=ExitStack)
    owner: str | None = None
    key: str | None = None
    key_sought: bool = False
    found_key: ApiKey | None = None
    charge: Callable[[float], Awaitable[None]] | None = None
    model: str | None = None
    stages: Stages | None = None
    timings: Mapping[str, float] | None = None
    problem: str | None = None
    status: int | None = None
    _timeout: float | None = None

    def timeout(self, longest: float) -> float:
        """Return the request's timeout in seconds, after parsing its header once.

        Args:
            longest: the server's own timeout; the header can only shorten it.

        Raises:
            RequestValidationError: the header is not a positive whole number, or is there twice.
        """
        if self._timeout is None:
            header = single(self.headers, TIMEOUT_HEADER)
            milliseconds = None if header is None else whole_number(header)
            if header is not None and milliseconds is None:
                message = f"Input should be a positive whole number, not {header[:32]!r}"
                raise invalid(message, TIMEOUT_HEADER)
            own = longest if milliseconds is None else milliseconds / 1000
            self._timeout = min(own, longest)
        return self._timeout


class _RandomIds:
    """Unguessable ids. Used on the event loop only, and by no process but its own."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._ids: list[str] = []

    def next(self) -> str:
        """Return an id that was never returned before."""
        if not self._ids or self._process != os.getpid():
            self._process = os.getpid()
            digits = secrets.token_hex(_IDS_AT_ONCE * _REQUEST_ID_BYTES)
            step = 2 * _REQUEST_ID_BYTES
            self._ids = [digits[at : at + step] for at in range(0, len(digits), step)]
        return self._ids.pop()


random_id = _RandomIds().next
"""Returns 32 random hexadecimal digits that it never returned before."""


def valid_request_id(given: str) -> bool:
    """Return whether a caller's request id can be kept."""
    return _REQUEST_ID.fullmatch(given) is not None


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request; create it at the first call."""
    record: RequestRecord | None = scope.get(_KEY)
    if record is None:
        headers = Headers(scope=scope)
        given = headers.getlist(REQUEST_ID_HEADER)
        request_id = given[0] if len(given) == 1 and valid_request_id(given[0]) else random_id()
        record = scope[_KEY] = RequestRecord(request_id, headers)
    return record


def route_of(scope: Scope) -> str:
    """Return the path template of the request's route, never the path, which callers choose."""
    route: str = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
    return route
