"""Keeping long work off the event loop, and short work on it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")

# Parsing or encoding so many bytes takes about as long as handing them to a thread and back.
_WORTH_A_THREAD = 64_000


async def run_sized(size: int, function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """Runs a function whose time grows with ``size`` bytes, on a thread if that is long."""
    if size < _WORTH_A_THREAD:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
