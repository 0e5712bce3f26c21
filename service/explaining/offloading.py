"""Long computations run on worker threads, short ones on the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")

# Parsing or encoding this many bytes takes about as long as the hand-over to a thread and back.
_WORTH_A_THREAD_BYTES = 64_000


async def offload_if_large(
    size: int, function: Callable[..., _Answer], *arguments: object
) -> _Answer:
    """Run a function whose time grows with ``size`` bytes, on a worker thread if that is long."""
    if size < _WORTH_A_THREAD_BYTES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
