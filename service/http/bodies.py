"""Bodies of requests: decompressed, within their limits, and large ones parsed on threads."""

import asyncio
import zlib
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from service.batching import Shares
from service.errors import BodyTooLargeError, MalformedBodyError, TooManyRequestsError
from service.explaining.fair_threads import FairThreads
from service.explaining.offloading import THREAD_FROM_BYTES
from service.http.headers import whole_number
from service.settings.values import BodyLimits
from service.telemetry.metrics import Metrics

# Window sizes that tell zlib which format to expect: with gzip's header or with zlib's own.
_WINDOWS = {"gzip": 31, "deflate": 15}
ACCEPTED_CODINGS = ("gzip", "deflate", "identity")
"""Values of ``Content-Encoding`` that requests may have."""

# Decompressing so much takes a fraction of a millisecond of the event loop.
_PIECE_BYTES = 262_144
# Programs that compress in blocks, such as bgzip, write one for every 64 kB. Millions of empty ones
# would take seconds.
_MOST_MEMBERS = 1000

# Parsers hold the interpreter's lock most of the time: more threads would not be faster.
_BODY_THREADS = 4
# Many times longer than any body within the limits takes.
_LONGEST_SECONDS = 5.0

_Answer = TypeVar("_Answer")


def coding_of(headers: Headers) -> str:
    """Return the content coding of a request's body, in lower case; ``identity`` without one."""
    given = ", ".join(headers.getlist("content-encoding")).strip().lower() or "identity"
    return "gzip" if given == "x-gzip" else given


class BodyBudget:
    """The limits on one body, and on all bodies in progress together."""

    def __init__(self, limits: BodyLimits, metrics: Metrics) -> None:
        self._limits = limits
        self._bytes_in_progress = in_progress = Shares(limits.max_bytes_in_progress)
        metrics.body_bytes_in_progress.set_function(lambda: in_progress.total)

    def limited(
        self,
        headers: Headers,
        receive: Receive,
        owner: Callable[[], Hashable],
        until_sent: ExitStack,
    ) -> Receive:
        """Return ``receive`` with the limits on this body and on all bodies in progress.

        A compressed body is decompressed piece by piece, so that the limits hold for its content,
        and a few bytes that would become gigabytes are refused as soon as they exceed them. A body
        of an unknown coding is passed on as it is; the routes refuse it.

        Args:
            headers: the request's headers.
            receive: returns the next part of the body.
            owner: returns the owner of the request; owners share the room fairly.
            until_sent: counts the body as in progress until it is closed.
        """
        limit = self._limits.max_bytes
        announced = whole_number(headers.get("content-length", "")) or 0
        window = _WINDOWS.get(coding_of(headers))
        source = receive if window is None else _Decompressed(receive, window)
        received = 0

        until_sent.callback(lambda: self._count(owner, -received))

        async def limited() -> Message:
            nonlocal received
            if announced > limit:
                raise BodyTooLargeError(
                    f"The body has {announced} bytes; this server accepts {limit}.", field="body"
                )
            message = await source()
            size = len(message.get("body", b""))
            received += size
            self._count(owner, size)
            if received > limit:
                unpacked = "" if window is None else " once it is decompressed"
                raise BodyTooLargeError(
                    f"The body has more than the {limit} bytes that this server accepts{unpacked}.",
                    field="body",
                )
            if size and self._bytes_in_progress.excess(owner(), 0) > 0:
                self._bytes_in_progress.refused(owner())
                raise TooManyRequestsError("The server holds too many bodies; try again later.")
            return message

        return limited

    def _count(self, owner: Callable[[], Hashable], body_bytes: int) -> None:
        if body_bytes:
            self._bytes_in_progress.add(owner(), body_bytes)


class _Decompressed:
    """A ``receive`` that decompresses the body, at most ``_PIECE_BYTES`` at a time."""

    def __init__(self, receive: Receive, window: int) -> None:
        self._receive = receive
        self._new_member = partial(zlib.decompressobj, window)
        self._member = self._new_member()
        self._members = 1
        self._begun = False
        self._held = b""
        self._pending = False
        self._more = True

    async def __call__(self) -> Message:
        """Return the next piece of the content, or any other message as it is.

        Raises:
            MalformedBodyError: the body is damaged or cut off.
        """
        if self._held or self._pending:
            # Other requests have their turn between two pieces.
            await asyncio.sleep(0)
        elif self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._held = message.get("body", b"")
            self._more = message.get("more_body", False)
        else:
            return await self._receive()
        try:
            piece = self._next_piece()
        except zlib.error as error:
            raise _damaged("it is damaged, or in another format") from error
        more = self._more or self._pending or bool(self._held)
        if not more and self._begun and not self._member.eof:
            raise _damaged("it ends too early")
        return {"type": "http.request", "body": piece, "more_body": more}

    def _next_piece(self) -> bytes:
        if not self._held and not self._pending:
            return b""
        if self._member.eof:
            # A gzip file may have several members, one after the other.
            self._members += 1
            if self._members > _MOST_MEMBERS:
                raise _damaged(f"it has more than {_MOST_MEMBERS} members")
            self._member = self._new_member()
        self._begun = True
        piece: bytes = self._member.decompress(self._held, _PIECE_BYTES)
        ended = self._member.eof
        self._held = self._member.unused_data if ended else self._member.unconsumed_tail
        # A full piece: the decompressor may hold more, although it has taken all of its input.
        self._pending = not ended and len(piece) == _PIECE_BYTES
        return piece


def _damaged(reason: str) -> MalformedBodyError:
    return MalformedBodyError(
        f"The body cannot be decompressed as its Content-Encoding says: {reason}.", field="body"
    )


class BodyThreads:
    """Threads that parse large bodies. All methods run on the event loop."""

    def __init__(self) -> None:
        self._threads = FairThreads("body", _BODY_THREADS)

    async def run(
        self, owner: Hashable, size: int, function: Callable[..., _Answer], *arguments: object
    ) -> _Answer:
        """Run a function on the event loop, or on a thread of the pool if ``size`` is large.

        Args:
            owner: owner of the body; owners take turns.
            size: number of bytes that the function reads.
            function: the function.
            arguments: its arguments.
        """
        if size < THREAD_FROM_BYTES:
            return function(*arguments)
        return await self._threads.run(owner, function, *arguments)

    def readiness_problem(self) -> str | None:
        """Return the reason why no body can be parsed soon, otherwise None."""
        if self._threads.all_busy_for(_LONGEST_SECONDS):
            return "All threads for bodies are busy with bodies that take too long."
        return None

    def close(self) -> None:
        """Parse no further body; do not wait for those that are being parsed."""
        self._threads.close()
