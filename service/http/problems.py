"""Errors as RFC 9457 problem details: one table from what went wrong to what the caller sees."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Scope

from legrad_engine.errors import (
    ImageDecodeError,
    ImageTooLargeError,
    InvalidOptionError,
    InvalidTargetError,
    LegradError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from service.batching import (
    BatcherClosedError,
    BatchingError,
    DeadlineExceededError,
    ItemOutOfMemoryError,
    ItemTooLargeError,
    QueueFullError,
    WorkerDiedError,
    WorkerStalledError,
    WorkerUnavailableError,
)

MEDIA_TYPE = "application/problem+json"

MOST_ERRORS = 8
"""Most mistakes of one body that its problem lists: a union reports every branch it tried."""

# An error may quote what was sent, but must not send megabytes of it back.
_LONGEST_TEXT = 600


class ServiceError(Exception):
    """Base of the service's own errors; ``status``, ``code`` and ``title`` describe the kind."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers that belong to the problem."""
        return {}


class TryLaterError(ServiceError):
    """The same request may be answered later; None where nobody can tell when."""

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_seconds: float | None = 1.0
    ) -> None:
        super().__init__(message, field=field)
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> Mapping[str, str]:
        """``Retry-After`` where it is known."""
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": retry_after(self.retry_after_seconds)}


class BodyTooLargeError(ServiceError):
    """The request body is longer than the limit."""

    status, code, title = 413, "body-too-large", "The request body is too large"


class LimitExceededError(ServiceError):
    """The request asks for more than a limit allows."""

    status, code, title = 422, "limit-exceeded", "The request exceeds a limit"


class PictureTimeoutError(ServiceError):
    """Decoding or drawing a picture took too long."""

    status, code, title = 422, "picture-timeout", "The picture takes too long"


class NotFiniteError(ServiceError):
    """What the model computed of a picture is not finite numbers."""

    status, code, title = 500, "not-finite", "The model's numbers are not finite"


class MalformedBodyError(ServiceError):
    """The body is not what its content type says."""

    status, code, title = 400, "malformed-body", "The request body cannot be read"


class SlowBodyError(ServiceError):
    """The body did not arrive in time."""

    status, code, title = 408, "slow-body", "The request body came too slowly"


class UnsupportedMediaTypeError(ServiceError):
    """The body has a content type or encoding that is not accepted."""

    status, code, title = 415, "unsupported-media-type", "The content type is not accepted"


class UnknownVersionError(ServiceError):
    """The model has no such version."""

    status, code, title = 404, "unknown-version", "The model has no such version"


class NotAcceptableError(ServiceError):
    """The answer cannot be given in the media type that was asked for."""

    status, code, title = 406, "not-acceptable", "The answer has no such form"


class TooManyRequestsError(TryLaterError):
    """The server has accepted as many requests as it will hold."""

    status, code, title = 429, "too-many-requests", "The server is busy"


class NotReadyError(TryLaterError):
    """The server or the model cannot answer now."""

    status, code, title = 503, "not-ready", "The model is not ready"


class NoRoomError(TryLaterError):
    """Models with work in flight hold the memory that this one needs."""

    status, code, title = 503, "no-room", "The memory for models is in use"


class ModelTooLargeError(ServiceError):
    """The model alone is larger than the memory that the settings allow for models."""

    status, code, title = 507, "model-too-large", "The model is larger than the memory for models"


class InvalidUrlError(ServiceError):
    """The address of a picture is not an http or https address, or an ambiguous one."""

    status, code, title = 422, "url-invalid", "The picture's address is not valid"


class UrlNotAllowedError(ServiceError):
    """This server does not fetch pictures from that address, or from any."""

    status, code, title = 403, "url-not-allowed", "The picture's address is not allowed"


class UrlRefusedError(ServiceError):
    """The picture's server answered that there is none, or none for us."""

    status, code, title = 422, "url-refused", "The picture's server does not give it"


class UrlTooLargeError(ServiceError):
    """The fetched pictures of one request have more bytes than the limit."""

    status, code, title = 413, "url-too-large", "The fetched pictures are too large"


class UrlUnreachableError(ServiceError):
    """The picture's server could not be reached, or did not answer as it should."""

    status, code, title = 502, "url-unreachable", "The picture could not be fetched"


class UrlTimeoutError(ServiceError):
    """The picture did not arrive in time."""

    status, code, title = 504, "url-timeout", "The picture's server is too slow"


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem detail before it gets its instance and request id."""

    status: int
    code: str
    title: str
    detail: str
    field: str | None = None
    errors: Sequence[Mapping[str, str]] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


_KINDS: dict[type[Exception], tuple[int, str, str]] = {
    ImageDecodeError: (422, ImageDecodeError.code, "The image cannot be decoded"),
    ImageTooLargeError: (413, ImageTooLargeError.code, "The image has too many pixels"),
    InvalidOptionError: (422, InvalidOptionError.code, "An option is not valid"),
    InvalidTargetError: (422, InvalidTargetError.code, "A prompt or target is not valid"),
    UnknownModelError: (404, UnknownModelError.code, "There is no such model"),
    UnsupportedModelError: (422, UnsupportedModelError.code, "The model cannot be explained"),
    ModelLoadError: (503, ModelLoadError.code, "The model could not be loaded"),
    QueueFullError: (429, "queue-full", "The queue is full"),
    DeadlineExceededError: (504, "deadline-exceeded", "The request took too long"),
    ItemTooLargeError: (422, "too-much-work", "The image asks for more work than the queue holds"),
    ItemOutOfMemoryError: (503, "out-of-memory", "The image does not fit the device's memory"),
    WorkerDiedError: (503, "worker-died", "The worker stopped"),
    WorkerStalledError: (503, "worker-stalled", "The worker hung"),
    WorkerUnavailableError: (503, "worker-unavailable", "The worker is not running"),
    BatcherClosedError: (503, "shutting-down", "The server is shutting down"),
    BatchingError: (500, "internal-error", "Something went wrong inside the server"),
}

ErrorForm = Callable[[Problem, str], dict[str, Any]]
"""Makes a problem, and the id of its request, into the JSON of a protocol."""

_HTTP_CODES = {404: "not-found", 405: "method-not-allowed"}


def describe(error: Exception) -> Problem | None:
    """The problem that an error means to the caller, or None where it is a bug."""
    if isinstance(error, RequestValidationError):
        return _from_validation(error)
    if isinstance(error, ServiceError):
        return Problem(
            error.status, error.code, error.title, str(error), error.field, headers=error.headers
        )
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, f"http-{error.status_code}")
        headers = error.headers or {}
        detail = error.detail
        if error.status_code == 404:
            detail = "This address of the server has nothing at this path; /docs lists the paths."
        return Problem(error.status_code, code, error.detail, detail, headers=headers)
    if isinstance(error, (LegradError, BatchingError)):
        for kind in type(error).__mro__:
            if kind in _KINDS:
                status, code, title = _KINDS[kind]
                headers = {}
                if isinstance(error, (QueueFullError, WorkerUnavailableError)):
                    headers["Retry-After"] = retry_after(error.retry_after_seconds)
                return Problem(
                    status, code, title, str(error), getattr(error, "field", None), headers=headers
                )
    return None


INTERNAL_ERROR = Problem(
    500,
    "internal-error",
    "Something went wrong inside the server",
    "The error was logged under this request id; the request can be sent again.",
)
CUT_SHORT = Problem(
    503,
    "shutting-down",
    "The server is shutting down",
    "The server had to stop before the request was answered; send it again, to another server.",
)


def retry_after(seconds: float) -> str:
    """A ``Retry-After`` value: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))


def body_of(problem: Problem, instance: str, request_id: str) -> dict[str, Any]:
    """The JSON body of a problem."""
    body: dict[str, Any] = {
        "type": f"urn:legrad:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": shorten(problem.detail),
        "instance": shorten(instance),
        "error": problem.code,
        "request_id": request_id,
    }
    if problem.field is not None:
        body["field"] = shorten(problem.field)
    if problem.errors:
        body["errors"] = list(problem.errors)
    return body


def shorten(text: str) -> str:
    """The text, without its middle where it is too long to repeat."""
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}…{text[-half:]}"


def respond(problem: Problem, scope: Scope) -> JSONResponse:
    """The response of a problem: in the form of the route's protocol, if it has one."""
    request_id = scope["state"]["request_id"]
    form: ErrorForm | None = getattr(scope.get("route"), "error_form", None)
    return JSONResponse(
        body_of(problem, scope["path"], request_id) if form is None else form(problem, request_id),
        problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE if form is None else "application/json",
    )


async def handle(request: Request, error: Exception) -> JSONResponse:
    """Answers an expected error; a bug goes on to the outermost layer, which logs it."""
    problem = describe(error)
    if problem is None:
        raise error
    if problem.status == 405:
        allow = _methods_of(request, problem.headers.get("Allow", ""))
        problem = dataclasses.replace(
            problem,
            detail=f"This path takes {allow}; /docs says what it expects.",
            headers={"Allow": allow},
        )
    request.state.problem = problem.code
    return respond(problem, request.scope)


def _methods_of(request: Request, named: str) -> str:
    """The methods of all routes of a path; the first of them, which refused, named but its own."""
    routes: Sequence[Route] = request.app.state.routes
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    # `/v1/models/{id}` matches what was meant for `/v1/models/{id}:explain`.
    meant = max((route.path for route in matching), key=len, default="")
    methods = {
        method for route in matching if route.path == meant for method in route.methods or ()
    }
    return ", ".join(sorted(methods)) or named


def _from_validation(error: RequestValidationError) -> Problem:
    found = [
        {
            "field": shorten(".".join(str(part) for part in each["loc"]) or "body"),
            "message": shorten(each["msg"]),
        }
        for each in error.errors()[:MOST_ERRORS]
    ]
    first = found[0]
    malformed = any(each["type"] == "json_invalid" for each in error.errors())
    return Problem(
        400 if malformed else 422,
        MalformedBodyError.code if malformed else "invalid-request",
        MalformedBodyError.title if malformed else "The request is not valid",
        f"{first['field']}: {first['message']}",
        first["field"],
        found,
    )
