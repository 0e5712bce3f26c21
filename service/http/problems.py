"""Errors as RFC 9457 problem details: the table of their statuses, titles and headers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from legrad_engine.errors import (
    ImageDecodeError,
    ImageTooLargeError,
    InvalidOptionError,
    InvalidTargetError,
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
    whole_seconds,
)
from service.errors import (
    AdminDisabledError,
    BodyTooLargeError,
    ForbiddenError,
    InvalidUrlError,
    KeyConcurrencyError,
    KeyCostError,
    KeyRateError,
    LimitExceededError,
    LongPathError,
    MalformedBodyError,
    ModelTooLargeError,
    NoRoomError,
    NotAcceptableError,
    NotFiniteError,
    NotReadyError,
    OutOfMemoryError,
    PictureCrashError,
    PictureMemoryError,
    PictureProcessEndedError,
    PictureTimeoutError,
    SlowBodyError,
    TooManyRequestsError,
    TryLaterError,
    UnauthorizedError,
    UnknownVersionError,
    UnsupportedMediaTypeError,
    UrlNotAllowedError,
    UrlRefusedError,
    UrlTimeoutError,
    UrlTooLargeError,
    UrlUnreachableError,
    WrongPathError,
)
from service.schemas.answers import MOST_ERRORS

MEDIA_TYPE = "application/problem+json"

# An error may quote the request, but must not repeat megabytes of it.
_LONGEST_TEXT = 600

_INTERNAL = "internal-error"
_CHALLENGE = 'Bearer realm="legrad"'


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem details without their instance and request id."""

    status: int
    code: str
    title: str
    detail: str
    field: str | None = None
    errors: Sequence[Mapping[str, str]] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    title: str
    code: str | None = None
    """Slug of an error class that has no ``code`` itself."""


_KINDS: dict[type[Exception], _Kind] = {
    ImageDecodeError: _Kind(422, "The image cannot be decoded"),
    ImageTooLargeError: _Kind(413, "The image has too many pixels"),
    InvalidOptionError: _Kind(422, "An option is not valid"),
    InvalidTargetError: _Kind(422, "A prompt or target is not valid"),
    WrongPathError: _Kind(404, "Not Found"),
    LongPathError: _Kind(414, "The path is too long"),
    UnknownModelError: _Kind(404, "There is no such model"),
    UnsupportedModelError: _Kind(422, "The model cannot be explained"),
    ModelLoadError: _Kind(503, "The model could not be loaded"),
    BodyTooLargeError: _Kind(413, "The request body is too large"),
    LimitExceededError: _Kind(422, "The request exceeds a limit"),
    PictureTimeoutError: _Kind(422, "The picture takes too long to process"),
    PictureMemoryError: _Kind(422, "The picture takes too much memory to process"),
    PictureCrashError: _Kind(422, "The picture crashes its decoder"),
    PictureProcessEndedError: _Kind(503, "The process of the picture was ended"),
    OutOfMemoryError: _Kind(503, "The server has no memory left"),
    MemoryError: _Kind(503, "The server has no memory left", "out-of-memory"),
    NotFiniteError: _Kind(500, "The model's numbers are not finite"),
    MalformedBodyError: _Kind(400, "The request body cannot be read"),
    SlowBodyError: _Kind(408, "The request body came too slowly"),
    UnsupportedMediaTypeError: _Kind(415, "The content type is not accepted"),
    UnknownVersionError: _Kind(404, "The model has no such version"),
    NotAcceptableError: _Kind(406, "The answer has no such media type"),
    TooManyRequestsError: _Kind(429, "The server is busy"),
    NotReadyError: _Kind(503, "The model is not ready"),
    NoRoomError: _Kind(503, "The memory for models is in use"),
    ModelTooLargeError: _Kind(507, "The model is larger than the memory for models"),
    InvalidUrlError: _Kind(422, "The picture's URL is not valid"),
    UrlNotAllowedError: _Kind(403, "The picture's URL is not allowed"),
    UrlRefusedError: _Kind(422, "The picture's server refuses the request"),
    UrlTooLargeError: _Kind(413, "The fetched pictures are too large"),
    UrlUnreachableError: _Kind(502, "The picture could not be fetched"),
    UrlTimeoutError: _Kind(504, "The picture's server is too slow"),
    UnauthorizedError: _Kind(401, "The key is missing or wrong"),
    ForbiddenError: _Kind(403, "The key lacks the scope"),
    AdminDisabledError: _Kind(403, "The admin routes are off"),
    KeyConcurrencyError: _Kind(429, "The key has too many requests at once"),
    KeyCostError: _Kind(429, "The key asks for too much work"),
    KeyRateError: _Kind(429, "The key sends requests too fast"),
    QueueFullError: _Kind(429, "The queue is full", "queue-full"),
    DeadlineExceededError: _Kind(504, "The request took too long", "deadline-exceeded"),
    ItemTooLargeError: _Kind(
        422, "The image asks for more work than the queue holds", "too-much-work"
    ),
    ItemOutOfMemoryError: _Kind(503, "The image does not fit the device's memory", "out-of-memory"),
    WorkerDiedError: _Kind(503, "The worker stopped", "worker-died"),
    WorkerStalledError: _Kind(503, "The worker hung", "worker-stalled"),
    WorkerUnavailableError: _Kind(503, "The worker is not running", "worker-unavailable"),
    BatcherClosedError: _Kind(503, "The server is shutting down", "shutting-down"),
    BatchingError: _Kind(500, "Something went wrong inside the server", _INTERNAL),
}

ErrorForm = Callable[[Problem, str], dict[str, Any]]
"""Writes a problem and the id of its request as the JSON of a protocol."""

_HTTP_CODES = {404: "not-found", 405: "method-not-allowed"}


def describe(error: Exception) -> Problem | None:
    """Return the problem that reports an error to the caller, or None if the error is a bug."""
    if isinstance(error, RequestValidationError):
        return _from_validation(error)
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, f"http-{error.status_code}")
        headers = error.headers or {}
        detail = error.detail
        if error.status_code == 404:
            detail = "This address of the server has nothing at this path; /docs lists the paths."
        return Problem(error.status_code, code, error.detail, detail, headers=headers)
    kind = next((_KINDS[each] for each in type(error).__mro__ if each in _KINDS), None)
    if kind is None:
        return None
    if isinstance(error, MemoryError):
        # Python's own error says nothing, and pictures may be decoded in the server itself.
        error = OutOfMemoryError("The server has no memory left; try again in a moment.")
    slug: str = getattr(error, "code", _INTERNAL) if kind.code is None else kind.code
    return Problem(
        kind.status,
        slug,
        kind.title,
        str(error),
        getattr(error, "field", None),
        headers=_headers_of(error),
    )


def _headers_of(error: Exception) -> dict[str, str]:
    """Return the response headers of an error."""
    match error:
        case UnauthorizedError():
            return {"WWW-Authenticate": _CHALLENGE}
        case ForbiddenError():
            scopes = " ".join(sorted(error.scopes))
            # RFC 6750, section 3.
            return {
                "WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{scopes}"'
            }
        case UnsupportedMediaTypeError():
            # RFC 9110, section 15.5.16.
            named = {"Accept": error.media_types, "Accept-Encoding": error.codings}
            return {name: ", ".join(values) for name, values in named.items() if values}
        case QueueFullError() | WorkerUnavailableError() | TryLaterError():
            if error.retry_after_seconds is not None:
                return {"Retry-After": str(whole_seconds(error.retry_after_seconds))}
    return {}


WRONG_HOST = Problem(
    400,
    "malformed-request",
    "The request is not valid HTTP/1.1",
    "A request has exactly one Host header (RFC 9112, section 3.2).",
    "Host",
    # Where the next request begins may be disputed, too.
    headers={"Connection": "close"},
)
INTERNAL_ERROR = Problem(
    500,
    _INTERNAL,
    "Something went wrong inside the server",
    "The error was logged under this request id; the request can be sent again.",
)
CUT_SHORT = Problem(
    503,
    "shutting-down",
    "The server is shutting down",
    "The server had to stop before the request was answered; send it again, to another server.",
)


def body_of(problem: Problem, instance: str, request_id: str) -> dict[str, Any]:
    """Return the JSON body of a problem."""
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
    """Return the text, without its middle if it is too long to repeat."""
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}…{text[-half:]}"


def invalid(message: str, *location: str | int) -> RequestValidationError:
    """Return the error of a request that does not fit the contract.

    Args:
        message: the detail.
        location: path of the field in the request.
    """
    return RequestValidationError([{"type": "value_error", "loc": location, "msg": message}])


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
        _KINDS[MalformedBodyError].title if malformed else "The request is not valid",
        f"{first['field']}: {first['message']}",
        first["field"],
        found,
    )
