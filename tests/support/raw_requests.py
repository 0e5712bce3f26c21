"""Requests as bytes, for tests that send them by hand."""

import json
from typing import Any

HEAD = b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
"""Of a JSON body; how long it is, and the empty line, come after it."""


LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
"""A whole request, after which the connection stays open."""

REFUSED_EARLY = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
"""What is answered with 404 before its ten bytes have come."""


def posted(body: dict[str, Any], **headers: str) -> bytes:
    """A whole request for ``/explain``, after which the connection stays open."""
    content = json.dumps(body).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    return HEAD + more + b"Content-Length: %d\r\n\r\n" % len(content) + content


def posted_alone(body: dict[str, Any], **headers: str) -> bytes:
    """The same, after which the server closes the connection."""
    return posted(body, Connection="close", **headers)
