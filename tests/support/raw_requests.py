"""Requests as bytes, for tests with raw connections."""

import json
from typing import Any

HEAD = b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
"""The head of a request with a JSON body, without its length and the empty line."""


LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
"""A complete request, after which the connection stays open."""

REFUSED_EARLY = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
"""A request that is answered with 404 before its body of ten bytes arrives."""


def posted(body: dict[str, Any], **headers: str) -> bytes:
    """Return a complete request for ``/explain``, after which the connection stays open."""
    content = json.dumps(body).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    return HEAD + more + b"Content-Length: %d\r\n\r\n" % len(content) + content


def posted_alone(body: dict[str, Any], **headers: str) -> bytes:
    """Return a complete request for ``/explain``, after which the server closes the connection."""
    return posted(body, Connection="close", **headers)
