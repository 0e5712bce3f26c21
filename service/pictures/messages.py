"""Messages between the server and its picture processes: pickles, with large buffers beside them.

A message is a prefix, the lengths of its parts, and the parts: a pickle, then the buffers of its
arrays and encoded pictures, which are sent and received without copying them into the pickle.
"""

import asyncio
import dataclasses
import io
import pickle  # nosec B403 # between the server and its own processes
import socket
import struct
from collections.abc import Sequence
from typing import Any

# Bytes of all parts together, and number of parts.
_PREFIX = struct.Struct("<QI")

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
    """Send a message; blocks."""
    for part in pack(message):
        connection.sendall(part)


def receive(connection: socket.socket) -> Any:
    """Receive a message from the server, which is trusted; blocks.

    Each buffer is received as bytes of its own, so that an encoded picture is in memory once.

    Returns:
        The message, or None if the server has closed the connection.
    """
    try:
        _, count = _PREFIX.unpack(_receive_exactly(connection, _PREFIX.size))
        lengths = struct.unpack(f"<{count}Q", _receive_exactly(connection, 8 * count))
        pickled, *buffers = (_receive_exactly(connection, length) for length in lengths)
    except EOFError:
        return None
    return pickle.loads(pickled, buffers=buffers)  # nosec B301 # an order of the server


async def send_soon(connection: socket.socket, message: object) -> None:
    """Send a message over a non-blocking socket.

    Raises:
        OSError: the process has ended.
    """
    loop = asyncio.get_running_loop()
    for part in pack(message):
        await loop.sock_sendall(connection, part)


async def receive_answer(connection: socket.socket) -> Any:
    """Receive a message of a picture process over a non-blocking socket.

    A decoder that a picture has taken over must not take over the server: nothing but values and
    errors of the two packages is unpickled.

    Raises:
        OSError: the process has ended.
        EOFError: the process has ended.
        pickle.UnpicklingError: the message is not one of a picture process.
    """
    prefix = await _read(connection, _PREFIX.size)
    nbytes, count = _PREFIX.unpack(prefix)
    pickled, *buffers = _split(await _read(connection, 8 * count + nbytes), count)
    return _AnswerUnpickler(io.BytesIO(pickled), buffers=buffers).load()


class _AnswerUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NUMPY:
            return super().find_class(module, name)
        if module.startswith(_PACKAGES) and "." not in name:
            found = super().find_class(module, name)
            is_value = dataclasses.is_dataclass(found) or (
                isinstance(found, type) and issubclass(found, Exception)
            )
            if is_value and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into an answer.")


def _split(content: memoryview, count: int) -> list[memoryview]:
    lengths: Sequence[int] = struct.unpack_from(f"<{count}Q", content)
    parts, start = [], 8 * count
    for length in lengths:
        parts.append(content[start : start + length])
        start += length
    return parts


def _receive_exactly(connection: socket.socket, nbytes: int) -> bytes:
    received = connection.recv(nbytes, socket.MSG_WAITALL) if nbytes else b""
    while len(received) < nbytes:
        # A signal interrupted it, or the connection was closed.
        more = connection.recv(nbytes - len(received), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        received += more
    return received


async def _read(connection: socket.socket, nbytes: int) -> memoryview:
    loop = asyncio.get_running_loop()
    content = memoryview(bytearray(nbytes))
    rest = content
    while rest:
        count = await loop.sock_recv_into(connection, rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return content
