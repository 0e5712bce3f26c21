"""Headers: security headers of every answer, and numbers in those of requests."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "Content-Security-Policy"

# As they are sent, since every answer has them.
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Answers are data: nothing in one is to be run or loaded. Pages bring a policy of their own.
    (
        CONTENT_SECURITY_POLICY.lower().encode(),
        b"default-src 'none'; frame-ancestors 'none'",
    ),
)
# More digits than any limit has, and fewer than Python refuses to read.
_MOST_DIGITS = 20
_UNKEPT = (b"cache-control", b"no-store")


def whole_number(header: str) -> int | None:
    """Return the positive number in a header, or None; leading spaces and zeros are allowed."""
    digits = header.strip(" \t").lstrip("0")
    return int(digits[:_MOST_DIGITS]) if digits.isascii() and digits.isdigit() else None


class SecurityHeaders:
    """ASGI middleware that adds security headers to answers that do not have their own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                own = {name for name, _ in headers}
                headers += [header for header in _ALWAYS if header[0] not in own]
                # Files that can be compared may be kept; explanations and errors may not.
                if own.isdisjoint((b"etag", _UNKEPT[0])):
                    headers.append(_UNKEPT)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_headers)
