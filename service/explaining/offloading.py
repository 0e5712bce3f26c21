"""Long computations run on worker threads, short ones on the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")

# Parsing or encoding this many bytes takes about as long as the hand-over to a thread and back.
_WORTH_A_THREAD_BYTES = 64_000


async def offload(size: int, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """Run a function on the event loop, or on a worker thread for large ``size`` in bytes."""
    if size < _WORTH_A_THREAD_BYTES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
