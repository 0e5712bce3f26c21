"""Worker threads that decode and draw pictures, shared fairly among requests."""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from service.batching.pacing import DrainRate
from service.errors import PictureTimeoutError, TooManyRequestsError

_Answer = TypeVar("_Answer")

Work = Literal["draw", "decode"]
# Drawing goes first: it finishes a request, decoding begins one.
_BY_URGENCY: tuple[Work, ...] = ("draw", "decode")
_FIELDS: dict[Work, str] = {"draw": "output", "decode": "image"}
# Factor on estimates, because pictures differ and the machine has other work.
_MARGIN = 1.5


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    function: Callable[[], Any]
    answer: "asyncio.Future[Any]"
    began: float | None = None
    overdue: bool = False
    timer: asyncio.TimerHandle | None = field(default=None)


class PictureWorkers:
    """Runs functions on threads: round-robin among requests, in order within a request.

    All methods run on the event loop. A function cannot be stopped: if it exceeds its time, its
    request fails, and its thread stays busy until it returns. If a request is cancelled, its
    waiting functions are not run.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        """Create the workers; :meth:`start` starts their threads.

        Args:
            threads: number of threads.
            seconds: longest time of one function.
        """
        self._threads = threads
        self._seconds = seconds
        self._free = threads
        self._overdue = 0
        self._reserved = 0
        self._rates: dict[Work, DrainRate] = {work: DrainRate() for work in _BY_URGENCY}
        self._begun: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: dict[Work, OrderedDict[object, deque[_Job]]] = {
            work: OrderedDict() for work in _BY_URGENCY
        }

    def readiness_problem(self) -> str | None:
        """Return the reason why no thread can take more pictures soon, otherwise None."""
        if self._overdue == self._threads:
            return "All picture threads are busy with pictures that take too long."
        return None

    def start(self) -> None:
        """Start the threads."""
        for number in range(self._threads):
            # Daemon threads, so that the process can end while a decoder hangs.
            threading.Thread(target=self._serve, name=f"picture-{number}", daemon=True).start()

    def close(self) -> None:
        """Tell each thread to end after its current function; do not wait for it."""
        for _ in range(self._threads):
            self._begun.put(None)

    def check(self, deadline: float, pictures: int = 1) -> None:
        """Refuse a request whose pictures would not be done by its deadline. Reserve nothing.

        Args:
            deadline: deadline of the request, on the monotonic clock in seconds.
            pictures: number of its pictures.

        Raises:
            TooManyRequestsError: by the measured rates, the reserved pictures and these would take
                longer.
        """
        if not self._reserved:
            # Idle workers accept everything: an outdated rate must not refuse every request.
            return
        waiting = sum(map(len, self._waiting["decode"].values()))
        decoding = self._estimate("decode", waiting + pictures)
        drawing = self._estimate("draw", self._reserved + pictures)
        late = time.monotonic() + decoding + drawing - deadline
        if late > 0:
            raise TooManyRequestsError(
                "Pictures of others leave no time for more by the deadline; try again in a moment.",
                retry_after_seconds=late,
            )

    @contextlib.contextmanager
    def reserve(self, deadline: float, pictures: int) -> Iterator[None]:
        """Reserve time for pictures, from the start of their request until they are drawn.

        Args:
            deadline: deadline of the request, on the monotonic clock in seconds.
            pictures: number of its pictures.

        Raises:
            TooManyRequestsError: see :meth:`check`.
        """
        self.check(deadline, pictures)
        self._reserved += pictures
        try:
            yield
        finally:
            self._reserved -= pictures

    def drawing_seconds(self, pictures: int) -> float:
        """Estimate the seconds of drawing pictures by the measured rate; 0 before the first."""
        return self._estimate("draw", pictures)

    async def run(self, owner: object, work: Work, function: Callable[[], _Answer]) -> _Answer:
        """Run a function on a worker thread and return its result.

        Args:
            owner: the request; requests take turns.
            work: the kind of work.
            function: runs outside the event loop.

        Raises:
            PictureTimeoutError: the function took too long.
            Exception: any error of the function.
        """
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        job = _Job(work, function, answer)
        queue = self._waiting[work]
        queue.setdefault(owner, deque()).append(job)
        self._begin_next()
        try:
            return await answer
        finally:
            if job.began is None:
                queue[owner].remove(job)
                if not queue[owner]:
                    del queue[owner]

    def _estimate(self, work: Work, pictures: int) -> float:
        return _MARGIN * (self._rates[work].seconds_for(pictures) or 0.0) / self._threads

    def _begin_next(self) -> None:
        while self._free and (job := self._take_next()) is not None:
            self._free -= 1
            job.began = time.monotonic()
            job.timer = job.answer.get_loop().call_later(self._seconds, self._expire, job)
            self._begun.put(job)

    def _take_next(self) -> _Job | None:
        for work in _BY_URGENCY:
            queue = self._waiting[work]
            if queue:
                owner, jobs = queue.popitem(last=False)
                job = jobs.popleft()
                if jobs:
                    queue[owner] = jobs
                return job
        return None

    def _expire(self, job: _Job) -> None:
        job.overdue = True
        self._overdue += 1
        if not job.answer.done():
            job.answer.set_exception(
                PictureTimeoutError(
                    f"It takes longer than {self._seconds:g} s to {job.work} the picture: send a "
                    "smaller one, or ask for a smaller max_side.",
                    field=_FIELDS[job.work],
                )
            )

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._free += 1
        self._overdue -= job.overdue
        if job.timer is not None:
            job.timer.cancel()
        if job.began is not None:
            self._rates[job.work].record(1.0, time.monotonic() - job.began)
        if not job.answer.done():
            if error is None:
                job.answer.set_result(result)
            else:
                job.answer.set_exception(error)
        self._begin_next()

    def _serve(self) -> None:
        while (job := self._begun.get()) is not None:
            result, error = None, None
            try:
                result = job.function()
            # Any error fails the request, and the thread continues.
            except BaseException as raised:
                error = raised
            # The event loop may have ended.
            with contextlib.suppress(RuntimeError):
                job.answer.get_loop().call_soon_threadsafe(self._finish, job, result, error)
            del job, result, error
