"""Messages between the server and its picture processes: pickles, with large buffers beside them.

A message is a prefix, the lengths of its parts, and the parts: a pickle, then the buffers of its
arrays and encoded pictures, which are sent and received without copying them into the pickle.
"""

import dataclasses
import functools
import importlib
import io
import pickle  # nosec B403 # between the server and its own processes
import socket
import struct
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

# Bytes of all parts together, and number of parts.
_PREFIX = struct.Struct("<QI")
# No answer is nearly as long: what is drawn for one request is limited.
_MOST_BYTES = 1 << 30
# Linux and macOS write at most 1024 parts at once.
_MOST_PARTS = 1024

# Classes of other packages in answers: NumPy's arrays, and the scalars in error messages.
_NUMPY = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "scalar"),
    }
)
_PACKAGES = ("legrad_engine.", "service.")


def pack(message: object) -> list[bytes | memoryview]:
    """Return the parts of a message to send, one after the other."""
    buffers: list[memoryview] = []
    pickled = pickle.dumps(
        message, pickle.HIGHEST_PROTOCOL, buffer_callback=lambda each: buffers.append(each.raw())
    )
    lengths = [len(pickled), *(buffer.nbytes for buffer in buffers)]
    head = _PREFIX.pack(sum(lengths), len(lengths)) + struct.pack(f"<{len(lengths)}Q", *lengths)
    return [head, pickled, *buffers]


def send(connection: socket.socket, message: object) -> None:
    """Send a message; blocks.

    One write wakes the reader once.
    """
    parts = pack(message)
    sent = connection.sendmsg(parts[:_MOST_PARTS])
    for part in parts:
        view = memoryview(part)
        if sent < len(view):
            connection.sendall(view[sent:])
        sent = max(0, sent - len(view))


def receive(stream: "io.BufferedReader[Any]") -> Any:
    """Receive a message from the server, which is trusted; blocks.

    Each buffer is received as bytes of its own, so that an encoded picture is in memory once. A
    small message is one read.

    Returns:
        The message, or None if the server has closed the connection.
    """
    try:
        _, count = _PREFIX.unpack(_read_exactly(stream, _PREFIX.size))
        lengths = struct.unpack(f"<{count}Q", _read_exactly(stream, 8 * count))
        pickled, *buffers = (_read_exactly(stream, length) for length in lengths)
    except EOFError:
        return None
    return pickle.loads(pickled, buffers=buffers)  # nosec B301 # an order of the server


class AnswerReader:
    """Puts the answers of a picture process together from the bytes that arrive.

    A decoder that a picture has taken over must not take over the server: nothing but values and
    errors of the two packages is unpickled. Each buffer becomes bytes of its own, as in
    :func:`receive`: drawn files are in memory once, and small arrays keep nothing else alive.
    """

    def __init__(self) -> None:
        self._received: deque[memoryview] = deque()
        self._size = 0
        self._begin()

    def _begin(self) -> None:
        self._parts = _parts_of_answer()
        self._wanted = next(self._parts)

    def feed(self, received: bytes) -> Any | None:
        """Take bytes; return the answer if they complete it, otherwise None.

        Raises:
            pickle.UnpicklingError: the message is not one of a picture process.
            ValueError: there are bytes behind the message.
            Exception: bytes that are no message raise errors of nearly any type.
        """
        self._received.append(memoryview(received))
        self._size += len(received)
        try:
            while self._size >= self._wanted:
                self._wanted = self._parts.send(self._take(self._wanted))
        except StopIteration as complete:
            if self._size:
                raise ValueError(f"{self._size} bytes behind a message") from None
            self._begin()
            pickled, *buffers = complete.value
            return _AnswerUnpickler(io.BytesIO(pickled), buffers=buffers).load()
        return None

    def _take(self, nbytes: int) -> bytes:
        """Remove and return so many of the received bytes."""
        self._size -= nbytes
        pieces: list[memoryview] = []
        while nbytes:
            piece = self._received.popleft()
            if len(piece) > nbytes:
                self._received.appendleft(piece[nbytes:])
                piece = piece[:nbytes]
            pieces.append(piece)
            nbytes -= len(piece)
        return b"".join(pieces)


class _AnswerUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _class_of_answer(module, name)


@functools.cache
def _class_of_answer(module: str, name: str) -> Any:
    """Return a class that an answer may hold; only classes that exist are kept."""
    if (module, name) in _NUMPY:
        return getattr(importlib.import_module(module), name)
    if module.startswith(_PACKAGES) and "." not in name:
        found = getattr(importlib.import_module(module), name)
        is_value = dataclasses.is_dataclass(found) or (
            isinstance(found, type) and issubclass(found, Exception)
        )
        if is_value and found.__module__ == module:
            return found
    raise pickle.UnpicklingError(f"{module}.{name} does not belong into an answer.")


def _parts_of_answer() -> Generator[int, bytes, list[bytes]]:
    """Return the parts of a message; yield the number of bytes that are needed next."""
    nbytes, count = _PREFIX.unpack((yield _PREFIX.size))
    size = _PREFIX.size + 8 * count + nbytes
    if size > _MOST_BYTES:
        raise ValueError(f"a message of {size} bytes")
    lengths: Sequence[int] = struct.unpack(f"<{count}Q", (yield 8 * count))
    if sum(lengths) != nbytes:
        raise ValueError(f"a message of {nbytes} bytes whose parts have {sum(lengths)}")
    parts = []
    for length in lengths:
        parts.append((yield length))
    return parts


def _read_exactly(stream: "io.BufferedReader[Any]", nbytes: int) -> bytes:
    content = stream.read(nbytes)
    if len(content) < nbytes:
        raise EOFError
    return content
