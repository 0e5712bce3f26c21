"""Keeping long work off the event loop, and short work on it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
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

    A caller that is cancelled leaves; the function runs on, but does not keep the process from
    ending.
    """
    answer: Future[_Answer] = Future()

    def run() -> None:
        # Marked as running, so that a caller who leaves cannot cancel what is being computed.
        answer.set_running_or_notify_cancel()
        try:
            answer.set_result(function(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    # Not of an executor: the interpreter waits for those threads before it ends.
    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(answer)
