"""Work that takes so long that it gets a thread of its own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Answer = TypeVar("_Answer")


async def run_in_own_thread(
    name: str, function: Callable[..., _Answer], *arguments: object
) -> _Answer:
    """Run a function on a new thread, because it would block a thread of a shared pool too long.

    If the caller is cancelled, it stops waiting; the function runs on, but does not keep the
    process from ending.
    """
    answer: Future[_Answer] = Future()

    def run() -> None:
        # Marked as running, so that a cancelled caller cannot cancel the computation.
        answer.set_running_or_notify_cancel()
        try:
            answer.set_result(function(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    # Not a thread of an executor: the interpreter waits for those before it ends.
    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(answer)
