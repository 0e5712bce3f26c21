"""Security headers of answers, and values of request headers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import invalid

REQUEST_ID_HEADER = "X-Request-ID"
CONTENT_SECURITY_POLICY = "Content-Security-Policy"

# Encoded once, because every answer has them.
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Answers are data: browsers must run and load nothing from them. Pages set their own policy.
    (
        CONTENT_SECURITY_POLICY.lower().encode(),
        b"default-src 'none'; frame-ancestors 'none'",
    ),
)
# More digits than any limit has, and fewer than ``int`` refuses.
_MOST_DIGITS = 20
_NOT_STORED = (b"cache-control", b"no-store")
_CHECKED = (b"cache-control", b"no-cache")


def whole_number(header: str) -> int | None:
    """Return the positive whole number in a header, or None if it is not one.

    Spaces and tabs around it and leading zeros are allowed.
    """
    digits = header.strip(" \t").lstrip("0")
    return int(digits[:_MOST_DIGITS]) if digits.isascii() and digits.isdigit() else None


def single(headers: Headers, name: str) -> str | None:
    """Return the value of a header that may be there once; None without it.

    Raises:
        RequestValidationError: the header is there more than once.
    """
    values = headers.getlist(name)
    if len(values) > 1:
        raise invalid("It appears more than once: send it once.", name)
    return values[0] if values else None


class OneRequestId:
    """ASGI middleware that keeps the first ``X-Request-ID`` of an answer, which is the server's.

    Middleware such as that of asgi-correlation-id appends another one. The application has this
    class around all middleware that is added to it. A program that wraps the finished application
    puts this class around its wrapper: only the outermost layer can see the last headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass other scopes through."""

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                ids = headers.getlist(REQUEST_ID_HEADER)
                if len(ids) > 1:
                    headers[REQUEST_ID_HEADER] = ids[0]
            await send(message)

        await self._app(scope, receive, send_once)


class SecurityHeaders:
    """ASGI middleware that adds security headers to answers that do not have their own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass other scopes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                own = {name for name, _ in headers}
                headers += [header for header in _ALWAYS if header[0] not in own]
                # Clients may store files, which have an ETag, but no explanations and no errors.
                # Stored files are checked at each use: they may be those of an older server.
                if _NOT_STORED[0] not in own:
                    headers.append(_CHECKED if b"etag" in own else _NOT_STORED)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_headers)
