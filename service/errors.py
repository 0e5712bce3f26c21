"""Errors of the service's own making, without HTTP.

``service.http.problems`` holds the one table that gives each of them a status, a title and headers.
``code`` is the slug that callers and metrics know the kind by.
"""

from collections.abc import Iterable
from typing import ClassVar


class ServiceError(Exception):
    """Base of the service's own errors.

    Attributes:
        code: slug of the kind.
        field: the request's field to blame, or None.
    """

    code: ClassVar[str]

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class TryLaterError(ServiceError):
    """The same request may succeed later.

    Attributes:
        retry_after_seconds: estimated wait, or None where it is unknown.
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
    """The body has a content type or encoding that is not accepted."""

    code = "unsupported-media-type"


class UnknownVersionError(ServiceError):
    """The model has no such version."""

    code = "unknown-version"


class NotAcceptableError(ServiceError):
    """The answer cannot be given in the requested media type."""

    code = "not-acceptable"


class ClientLeftError(Exception):
    """The client closed the connection before it was answered."""


# Access.


class UnauthorizedError(ServiceError):
    """The API key is missing or wrong."""

    code = "unauthorized"


class ForbiddenError(ServiceError):
    """The API key does not have a scope that the route needs.

    Attributes:
        scopes: the scopes of which the key needs one.
    """

    code = "forbidden"

    def __init__(self, message: str, scopes: Iterable[str]) -> None:
        super().__init__(message, field="Authorization")
        self.scopes = frozenset(scopes)


class AdminDisabledError(ServiceError):
    """The server has no API keys, so its admin routes are off."""

    code = "admin-disabled"


class KeyConcurrencyError(TryLaterError):
    """The API key has as many requests in flight as it may have."""

    code = "key-concurrency"


class KeyRateError(TryLaterError):
    """The API key sends requests faster than it may."""

    code = "key-rate"


# Limits and load.


class LimitExceededError(ServiceError):
    """The request asks for more than a limit allows."""

    code = "limit-exceeded"


class TooManyRequestsError(TryLaterError):
    """The server has accepted as many requests as it will hold."""

    code = "too-many-requests"


class PictureTimeoutError(ServiceError):
    """Decoding or drawing a picture took too long."""

    code = "picture-timeout"


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
    """This server does not fetch pictures from that URL, or from any."""

    code = "url-not-allowed"


class UrlRefusedError(ServiceError):
    """The picture's server answered that it has no such picture, or refuses it."""

    code = "url-refused"


class UrlTooLargeError(ServiceError):
    """The fetched pictures of one request have more bytes than the limit."""

    code = "url-too-large"


class UrlUnreachableError(ServiceError):
    """The picture's server could not be reached, or sent an unusable answer."""

    code = "url-unreachable"


class UrlTimeoutError(ServiceError):
    """The picture did not arrive in time."""

    code = "url-timeout"
