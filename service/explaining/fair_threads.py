"""Pools of threads that owners share fairly, apart from all other work outside the event loop."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from service.explaining.gate import Gate

_Answer = TypeVar("_Answer")


class FairThreads:
    """A bounded pool of threads, shared fairly by owners.

    All methods run on the event loop.
    """

    def __init__(self, name: str, threads: int, *, leave_room: bool = False) -> None:
        """Create the pool; its threads start when they are needed.

        Args:
            name: begin of the threads' names.
            threads: number of threads.
            leave_room: whether an owner gets at most as many threads as it leaves free.
        """
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._gate = Gate(threads, leave_room=leave_room)
        # Start of each function that runs, by its number.
        self._began: dict[int, float] = {}
        self._count = 0

    async def run(
        self, owner: Hashable, function: Callable[..., _Answer], *arguments: object
    ) -> _Answer:
        """Run a function on a thread of the pool.

        A cancelled caller does not stop a running function, which keeps its thread and the owner's
        place; one that waits is not run any more.

        Args:
            owner: owner of the work; owners take turns.
            function: the function.
            arguments: its arguments.
        """
        number = self._count = self._count + 1

        def timed() -> _Answer:
            self._began[number] = time.monotonic()
            try:
                return function(*arguments)
            finally:
                del self._began[number]

        loop = asyncio.get_running_loop()

        def ended(_: Future[_Answer]) -> None:
            # The server may have stopped meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._gate.leave, owner)

        await self._gate.enter(owner)
        try:
            running = self._executor.submit(timed)
        except RuntimeError:
            # The server stops: the others that wait learn it too.
            self._gate.leave(owner)
            raise
        # Not when the caller ends: a cancelled one does not free the thread.
        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    def all_busy_for(self, seconds: float) -> bool:
        """Return whether every thread has run its function for longer than this."""
        late = time.monotonic() - seconds
        return sum(began < late for began in list(self._began.values())) >= self._threads

    def close(self) -> None:
        """Run no further function; do not wait for those that run."""
        self._executor.shutdown(wait=False, cancel_futures=True)
