"""Exceptions that the client raises."""


class ClientError(Exception):
    """Base class of all errors of the client."""


class UnreachableError(ClientError):
    """The server cannot be reached, or its answer is not one of legrad-service."""


class DeadlineError(ClientError):
    """The deadline passed without an answer; ``__cause__`` is the error of the last attempt."""


class RefusedError(ClientError):
    """The server refused the request with problem details (RFC 9457); a retry would not help.

    Attributes:
        status: HTTP status.
        error: stable slug of the error, such as ``"image-decode-failed"``.
        detail: description of the error and of its remedy.
        field: the request field that caused it, or None.
        request_id: the request's id in the server's logs.
    """

    def __init__(
        self, status: int, error: str, detail: str, field: str | None, request_id: str
    ) -> None:
        super().__init__(f"{detail} ({status} {error}, request {request_id})")
        self.status = status
        self.error = error
        self.detail = detail
        self.field = field
        self.request_id = request_id
