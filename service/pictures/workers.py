"""The threads that decode and draw pictures: few, shared fairly, and waited for with patience."""

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
# What is computed is finished before more is begun.
_BY_URGENCY: tuple[Work, ...] = ("draw", "decode")
_FIELDS: dict[Work, str] = {"draw": "output", "decode": "image"}
# Pictures differ, and the machine has other work.
_MARGIN = 1.5


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    function: Callable[[], Any]
    answer: "asyncio.Future[Any]"
    began: float | None = None
    overdue: bool = False
    timer: asyncio.TimerHandle | None = field(default=None)


class PictureThreads:
    """Runs functions on threads, those of each request in order, taking turns between requests.

    Lives on the event loop. A function cannot be stopped: one that exceeds its time fails its
    request, and keeps its thread until it is done. One whose request is cancelled while it waits is
    never run.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        """Nothing runs until the threads are started.

        Args:
            threads: how many.
            seconds: how long one function may run.
        """
        self._threads = threads
        self._seconds = seconds
        self._free = threads
        self._overdue = 0
        self._promised = 0
        self._rates: dict[Work, DrainRate] = {work: DrainRate() for work in _BY_URGENCY}
        self._begun: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: dict[Work, OrderedDict[object, deque[_Job]]] = {
            work: OrderedDict() for work in _BY_URGENCY
        }

    @property
    def stuck(self) -> bool:
        """Whether every thread is busy with a function that has exceeded its time."""
        return self._overdue == self._threads

    def start(self) -> None:
        """Starts the threads."""
        for number in range(self._threads):
            # Daemons: a process must be able to end although a picture is stuck in its decoder.
            threading.Thread(target=self._serve, name=f"picture-{number}", daemon=True).start()

    def close(self) -> None:
        """Ends the threads, each after what it does; nobody waits for them."""
        for _ in range(self._threads):
            self._begun.put(None)

    def check_time(self, deadline: float, pictures: int = 1) -> None:
        """Refuses now what could only be given up later.

        Args:
            deadline: of a new request, on the monotonic clock.
            pictures: how many it brings.

        Raises:
            TooManyRequestsError: by the measured rates, what was promised to others and these
                pictures take until then.
        """
        if not self._promised:
            # Always tried: an outdated rate must not refuse for ever.
            return
        waiting = sum(map(len, self._waiting["decode"].values()))
        decoding = self._estimate("decode", waiting + pictures)
        drawing = self._estimate("draw", self._promised + pictures)
        late = time.monotonic() + decoding + drawing - deadline
        if late > 0:
            raise TooManyRequestsError(
                "Pictures of others leave no time for more by the deadline; try again in a moment.",
                retry_after_seconds=late,
            )

    @contextlib.contextmanager
    def promise(self, deadline: float, pictures: int) -> Iterator[None]:
        """Counts pictures from the start of their request until they are drawn.

        Raises:
            TooManyRequestsError: see :meth:`check_time`.
        """
        self.check_time(deadline, pictures)
        self._promised += pictures
        try:
            yield
        finally:
            self._promised -= pictures

    def drawing_seconds(self, pictures: int) -> float:
        """How long drawing so many pictures takes, by the measured rate; 0 before the first."""
        return self._estimate("draw", pictures)

    async def run(self, owner: object, work: Work, function: Callable[[], _Answer]) -> _Answer:
        """What the function returns.

        Args:
            owner: the request; none has more than its turn while others wait.
            work: what it is for.
            function: must not need the event loop.

        Raises:
            PictureTimeoutError: it took too long.
            Exception: what the function raises.
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
            # Whatever it is, the request is answered and the thread goes on.
            except BaseException as raised:
                error = raised
            # A loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                job.answer.get_loop().call_soon_threadsafe(self._finish, job, result, error)
            del job, result, error
