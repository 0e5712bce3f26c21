"""Writing of answers with pictures: as JSON with base64, or as multipart with raw bytes.

Pictures are most of an answer. They never enter a model of the contract: a short mark stands for
each of them until the model is written, and they are encoded piece by piece while they are sent.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pybase64
from fastapi import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from service.explaining.offloading import offload
from service.http.record import random_id

Place = Callable[[bytes], str | None]
"""Returns the text that stands for an encoded picture in the model of an answer."""

# Pieces of an answer have about this size: fewer are sent with less work, and larger ones would
# wait in the connection's buffer.
_PIECE_BYTES = 65_536
# Base64 of so many bytes, a multiple of three, is a quarter of a piece.
_GRAIN_BYTES = 12_288
_INDEX_DIGITS = 8
# JSON of one target without regions.
_TARGET_BYTES = 700
# Searching a picture for a boundary is so many times as fast as writing JSON.
_SEARCH_SPEED = 100


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a body.

    Attributes:
        content: the bytes.
        as_base64: whether they are sent in base64, or as they are.
    """

    content: bytes
    as_base64: bool = False

    @property
    def size(self) -> int:
        """Number of bytes that are sent."""
        length = len(self.content)
        return (length + 2) // 3 * 4 if self.as_base64 else length

    def grains(self) -> Iterator[bytes]:
        """Yield the bytes to send, little by little."""
        for start in range(0, len(self.content), _GRAIN_BYTES):
            grain = self.content[start : start + _GRAIN_BYTES]
            yield pybase64.b64encode(grain) if self.as_base64 else grain


class WrittenAnswer(Response):
    """An answer that is sent in pieces, and is never in memory as a whole."""

    def __init__(self, parts: Sequence[_Part], media_type: str) -> None:
        """Take the parts of the body, in order; at least one is not empty."""
        self._parts = parts
        self._length = sum(part.size for part in parts)
        super().__init__(media_type=media_type, headers={"Content-Length": str(self._length)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the answer."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        left = self._length
        for piece in _pieces(self._parts):
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})


async def json_answer(targets: int, model_with: Callable[[Place], BaseModel]) -> WrittenAnswer:
    """Return an answer in JSON, with the pictures in base64.

    Args:
        targets: number of targets in the answer.
        model_with: returns the model of the answer; it places each picture.
    """
    # Random, so that no text of a request equals it.
    return await offload(targets * _TARGET_BYTES, _json_answer, model_with, random_id())


def _json_answer(model_with: Callable[[Place], BaseModel], token: str) -> WrittenAnswer:
    pictures: list[bytes] = []

    def place(picture: bytes) -> str:
        pictures.append(picture)
        return f"{token}{len(pictures) - 1:0{_INDEX_DIGITS}}"

    json = model_with(place).model_dump_json().encode()
    first, *others = json.split(token.encode("ascii"))
    parts = [_Part(first)]
    for other in others:
        # Base64 has no characters that JSON escapes.
        parts.append(_Part(pictures[int(other[:_INDEX_DIGITS])], as_base64=True))
        parts.append(_Part(other[_INDEX_DIGITS:]))
    return WrittenAnswer(parts, "application/json")


@dataclass(frozen=True, slots=True)
class RawPart:
    """A part of a multipart answer.

    Attributes:
        disposition: its ``Content-Disposition``, with its name.
        media_type: its media type.
        content: its content.
    """

    disposition: str
    media_type: str
    content: bytes


async def multipart_answer(
    media_type: str, json: Callable[[], RawPart], pictures: Sequence[RawPart]
) -> WrittenAnswer:
    """Return a multipart answer, with a boundary that none of its parts contains.

    Args:
        media_type: ``multipart/form-data`` or ``multipart/mixed``.
        json: returns the first part.
        pictures: the other parts.
    """
    searched = sum(len(part.content) for part in pictures) // _SEARCH_SPEED
    size = len(pictures) * _TARGET_BYTES + searched
    return await offload(size, _multipart_answer, media_type, json, pictures)


def _multipart_answer(
    media_type: str, json: Callable[[], RawPart], pictures: Sequence[RawPart]
) -> WrittenAnswer:
    raw = [json(), *pictures]
    boundary = secrets.token_hex(16)
    while any(boundary.encode("ascii") in part.content for part in raw):
        boundary = secrets.token_hex(16)
    parts: list[_Part] = []
    for part in raw:
        lead = "\r\n" if parts else ""
        head = (
            f"{lead}--{boundary}\r\nContent-Disposition: {part.disposition}\r\n"
            f"Content-Type: {part.media_type}\r\n\r\n"
        )
        parts += [_Part(head.encode()), _Part(part.content)]
    parts.append(_Part(f"\r\n--{boundary}--\r\n".encode()))
    return WrittenAnswer(parts, f"{media_type}; boundary={boundary}")


def _pieces(parts: Iterable[_Part]) -> Iterator[bytes]:
    """Yield the bytes of all parts, in pieces of at most about :data:`_PIECE_BYTES`."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        for grain in part.grains():
            if size + len(grain) > _PIECE_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
            waiting.append(grain)
            size += len(grain)
    if waiting:
        yield b"".join(waiting)
