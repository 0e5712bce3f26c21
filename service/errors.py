"""Domain errors of the service, without HTTP.

``service.http.problems`` holds the one table that gives each of them a status, a title and headers.
"""

from collections.abc import Iterable
from typing import ClassVar


class ServiceError(Exception):
    """Base of the service's errors.

    Attributes:
        code: slug that names the kind of error to callers and in metrics.
        field: name of the request's field at fault, or None.
    """

    code: ClassVar[str]

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class WrongPathError(ServiceError):
    """Nothing is at this path, but something is at the path without its last slash."""

    code = "not-found"


class LongPathError(ServiceError):
    """The path is longer than any path of the server."""

    code = "path-too-long"


class TryLaterError(ServiceError):
    """The same request may succeed later.

    Attributes:
        retry_after_seconds: estimated wait, or None if it is unknown.
    """

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_seconds: float | None = 1.0
    ) -> None:
        super().__init__(message, field=field)
        self.retry_after_seconds = retry_after_seconds


# Bodies and protocols.


class BodyTooLargeError(ServiceError):
    """The request body is longer than the limit."""

    code = "body-too-large"


class MalformedBodyError(ServiceError):
    """The body does not match its content type."""

    code = "malformed-body"


class SlowBodyError(ServiceError):
    """The body did not arrive in time."""

    code = "slow-body"


class UnsupportedMediaTypeError(ServiceError):
    """The body, or a part of it, has a type, charset or encoding that is not accepted.

    Attributes:
        media_types: the accepted types, if the body's type is not accepted.
        codings: the accepted content codings, if the body's coding is not accepted.
    """

    code = "unsupported-media-type"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        media_types: Iterable[str] = (),
        codings: Iterable[str] = (),
    ) -> None:
        super().__init__(message, field=field)
        self.media_types = tuple(media_types)
        self.codings = tuple(codings)


class UnknownVersionError(ServiceError):
    """The model has no such version."""

    code = "unknown-version"


class NotAcceptableError(ServiceError):
    """The answer cannot be given in the requested media type."""

    code = "not-acceptable"


class ClientLeftError(Exception):
    """The client closed the connection before its request was answered."""


# Access.


class UnauthorizedError(ServiceError):
    """The API key is missing or wrong."""

    code = "unauthorized"


class ForbiddenError(ServiceError):
    """The API key does not have a scope that the route needs.

    Attributes:
        scopes: the key needs one of these.
    """

    code = "forbidden"

    def __init__(self, message: str, scopes: Iterable[str]) -> None:
        super().__init__(message, field="Authorization")
        self.scopes = frozenset(scopes)


class AdminDisabledError(ServiceError):
    """The server has no API keys, so its admin routes are off."""

    code = "admin-disabled"


class KeyConcurrencyError(TryLaterError):
    """The API key has reached its limit on concurrent requests."""

    code = "key-concurrency"


class KeyCostError(TryLaterError):
    """The API key has asked for all the work that it may in a minute."""

    code = "key-cost"


class KeyRateError(TryLaterError):
    """The API key has reached its request rate."""

    code = "key-rate"


# Limits and load.


class LimitExceededError(ServiceError):
    """The request asks for more than a limit allows."""

    code = "limit-exceeded"


class TooManyRequestsError(TryLaterError):
    """The server has no capacity for this request now."""

    code = "too-many-requests"


class PictureTimeoutError(ServiceError):
    """Decoding or drawing a picture took too long."""

    code = "picture-timeout"


class PictureMemoryError(ServiceError):
    """Decoding or drawing a picture needed more memory than one picture may have."""

    code = "picture-memory"


class PictureCrashError(ServiceError):
    """Decoding or drawing a picture crashed its process."""

    code = "picture-crash"


class PictureProcessEndedError(TryLaterError):
    """Something outside the server ended the process of a picture."""

    code = "picture-process-ended"


class OutOfMemoryError(TryLaterError):
    """The machine or the container has no memory left."""

    code = "out-of-memory"


class NotFiniteError(ServiceError):
    """The model computed numbers that are not finite."""

    code = "not-finite"


# Models.


class NotReadyError(TryLaterError):
    """The server or the model cannot answer now."""

    code = "not-ready"


class NoRoomError(TryLaterError):
    """Models with work in flight hold the memory that this one needs."""

    code = "no-room"


class ModelTooLargeError(ServiceError):
    """The model alone is larger than the memory that all models may take."""

    code = "model-too-large"


# Pictures by URL.


class InvalidUrlError(ServiceError):
    """The URL of a picture is not an unambiguous http or https URL."""

    code = "url-invalid"


class UrlNotAllowedError(ServiceError):
    """This server does not fetch pictures from that URL, or fetches none at all."""

    code = "url-not-allowed"


class UrlRefusedError(ServiceError):
    """The picture's server answered with a 4xx status."""

    code = "url-refused"


class UrlTooLargeError(ServiceError):
    """The pictures fetched for one request have more bytes than the limit."""

    code = "url-too-large"


class UrlUnreachableError(ServiceError):
    """The picture's server could not be reached, or sent an unusable answer."""

    code = "url-unreachable"


class UrlTimeoutError(ServiceError):
    """The picture did not arrive in time."""

    code = "url-timeout"
