"""Keeping long work off the event loop, and short work on it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Answer = TypeVar("_Answer")

# Parsing or encoding so many bytes takes about as long as handing them to a thread and back.
_WORTH_A_THREAD = 64_000


async def run_sized(size: int, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """Runs a function whose time grows with ``size`` bytes, on a thread if that is long."""
    if size < _WORTH_A_THREAD:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


async def run_alone(name: str, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """Runs a function on a thread of its own, for work so long that it would hold up a pool.

    A caller that is cancelled leaves; the function runs to its end.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)
    finally:
        thread.shutdown(wait=False)
