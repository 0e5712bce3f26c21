"""Threads that parse large bodies, apart from all other work outside the event loop."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.explaining.offloading import THREAD_FROM_BYTES

_Answer = TypeVar("_Answer")

# Parsers hold the interpreter's lock most of the time: more threads would not be faster.
_THREADS = 4
# Many times longer than any body within the limits takes.
_LONGEST_SECONDS = 5.0


class BodyThreads:
    """A bounded pool of threads for bodies. All methods run on the event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="body")
        # Start of each function that runs, by its number.
        self._began: dict[int, float] = {}
        self._count = 0

    async def run(self, size: int, function: Callable[..., _Answer], *arguments: object) -> _Answer:
        """Run a function on the event loop, or on a thread of the pool if ``size`` is large.

        A cancelled caller does not stop a running function; one that waits is not run any more.

        Args:
            size: number of bytes that the function reads.
            function: the function.
            arguments: its arguments.
        """
        if size < THREAD_FROM_BYTES:
            return function(*arguments)
        number = self._count = self._count + 1

        def timed() -> _Answer:
            self._began[number] = time.monotonic()
            try:
                return function(*arguments)
            finally:
                del self._began[number]

        return await asyncio.get_running_loop().run_in_executor(self._executor, timed)

    def readiness_problem(self) -> str | None:
        """Return the reason why no body can be parsed soon, otherwise None."""
        late = time.monotonic() - _LONGEST_SECONDS
        busy = sum(began < late for began in list(self._began.values()))
        if busy < _THREADS:
            return None
        return "All threads for bodies are busy with bodies that take too long."

    def close(self) -> None:
        """Run no further function; do not wait for those that run."""
        self._executor.shutdown(wait=False, cancel_futures=True)
