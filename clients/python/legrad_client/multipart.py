"""Reading of multipart answers, in time proportional to their size."""

import json
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

import httpx

# The part that holds everything but the pictures.
_ANSWER = "answer"


def content_of(response: httpx.Response) -> Any:
    """Return the parsed JSON of an answer; pictures of a multipart one are bytes in their places.

    Raises:
        LookupError, TypeError, ValueError: the answer is not one of this service.
    """
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    if header.get_content_maintype() != "multipart":
        return response.json()
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise ValueError("The content type has no boundary.")
    parts = dict(_parts(response.content, boundary.encode()))
    answer = json.loads(parts.pop(_ANSWER))
    for name, content in parts.items():
        *path, field = name.split(".")
        place = answer
        for step in path:
            place = place[int(step) if step.isdecimal() else step]
        place[field] = content
    return answer


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each part."""
    # The line break before a boundary is part of it.
    first, *parts, last = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if first or last.strip() != b"--":
        raise ValueError("The multipart answer is cut off.")
    parser = BytesHeaderParser()
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        name = parser.parsebytes(head.lstrip()).get_param("name", header="Content-Disposition")
        if not isinstance(name, str):
            raise ValueError("A part of the multipart answer has no name.")
        yield name, content
