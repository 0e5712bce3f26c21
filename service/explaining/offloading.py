"""Runs long computations on worker threads, short ones on the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")

# Parsing or encoding this many bytes takes about as long as a switch to a thread and back.
THREAD_FROM_BYTES = 64_000


async def offload(size: int, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """Run a function on the event loop, or on a worker thread if ``size`` is large.

    Args:
        size: number of bytes that the function reads or writes.
        function: the function.
        arguments: its arguments.
    """
    if size < THREAD_FROM_BYTES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
