"""What a client raises."""


class ClientError(Exception):
    """Base of all errors of the client."""


class UnreachableError(ClientError):
    """The server could not be reached, or did not answer in HTTP and JSON as this one does."""


class DeadlineError(ClientError):
    """No answer came before the deadline; the ``__cause__`` is what the last attempt met."""


class RefusedError(ClientError):
    """The server answered with a problem (RFC 9457), and trying again would not help.

    Attributes:
        status: HTTP status.
        error: slug of the kind, to branch on, such as ``"image-decode-failed"``.
        detail: what happened and what to do.
        field: the field to blame, or None.
        request_id: what the server's logs call the request.
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
