"""Picture processes that decode and draw pictures, shared fairly among owners of requests."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from legrad_engine.images.geometry import Geometry
from legrad_engine.images.inputs import PreparedImage
from service.batching.pacing import RestartBackoff
from service.pictures.canvases import Canvases, KeptCanvas
from service.pictures.capacity import PictureCapacity
from service.pictures.drawing import DrawingRules, DrawnImage, draw
from service.pictures.faults import error_of_end, error_of_memory, no_memory
from service.pictures.jobs import Decode, Decoded, Done, Draw, Failed, Order, OutOfMemory, Refused
from service.pictures.pending import PendingJob, Run
from service.pictures.processes import Launcher, PictureProcess
from service.pictures.turns import Turns
from service.settings.values import PictureLimits
from service.telemetry.metrics import Metrics

# A job whose request was cancelled may end within this time; then its process is killed. Most jobs
# do, and a new process would lack the canvases of the old one.
_GRACE_SECONDS = 0.25
# Starting a process takes milliseconds, its launcher before it seconds on a busy machine. One that
# takes longer hangs, and is replaced.
_START_SECONDS = 30.0
# For a killed process, when the server stops.
_END_SECONDS = 1.0
# Drawings that may wait for the process that has their canvas, while another one is idle. Beyond
# it, the idle one decodes the picture again.
_MOST_BEHIND = 2
# The statistics of maps of so many values take less time than a message to a process.
_MOST_VALUES_AT_ONCE = 2048

_log = structlog.get_logger("legrad.service")


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A picture that a picture process has decoded.

    Attributes:
        geometry: how the patch grid maps to the picture.
        prepared: the picture as model input, or None if its geometry was known before.
        canvas: the picture at the size of its overlay, or None where none was asked for.
        seconds: time of decoding.
    """

    geometry: Geometry
    prepared: PreparedImage | None
    canvas: KeptCanvas | None
    seconds: float


class PictureWorkers:
    """Carries out jobs in processes, in turns among owners and among the requests of each.

    All methods run on the event loop. A job that exceeds its time or memory fails, and its process
    is killed and replaced. If a request is cancelled, its waiting jobs are not carried out, and its
    running ones end before the cancellation goes on.

    Attributes:
        capacity: reservations of their time.
    """

    def __init__(self, limits: PictureLimits, metrics: Metrics) -> None:
        """Create the workers; :meth:`start` starts their processes.

        Args:
            limits: number of processes, and limits of each job.
            metrics: counts the processes and their ends.
        """
        self._limits = limits
        self._metrics = metrics
        self._turns: Turns[PendingJob] = Turns()
        self.capacity = PictureCapacity(limits.processes, partial(self._turns.ahead, "decode"))
        self._numbers = itertools.count()
        self._running: set[PictureProcess] = set()
        self._idle: set[PictureProcess] = set()
        self._runs: dict[PictureProcess, Run] = {}
        self._canvases = Canvases(self._wake)
        self._behind: dict[PictureProcess, int] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._launcher: Launcher | None = None
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of the running processes."""
        return [process.pid for process in self._running]

    @property
    def busy(self) -> int:
        """The number of processes that carry out a job."""
        return len(self._runs)

    def readiness_problem(self) -> str | None:
        """Return the reason why no process can take pictures soon, otherwise None."""
        if not self._running:
            return "No picture process is running: they start, or end at once; the log tells why."
        return None

    def start(self) -> None:
        """Start the processes; jobs wait until one is ready."""
        loop = asyncio.get_running_loop()
        self._launcher = Launcher.use()
        self._canvases.start(loop)
        self._keepers = [
            loop.create_task(self._keep_process(self._launcher))
            for _ in range(self._limits.processes)
        ]

    async def close(self) -> None:
        """End the processes; the requests of jobs that are not finished are cancelled."""
        self._closed = True
        while (job := self._turns.take(lambda _: True)) is not None:
            job.answer.cancel()
            job.finish()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._launcher is not None:
            await asyncio.to_thread(self._launcher.release)

    def keeps(self, canvas: int) -> bool:
        """Return whether the process of a canvas still runs.

        Args:
            canvas: its number.
        """
        return self._canvases.home(canvas) is not None

    async def decode(self, owner: Hashable, task: Decode, request: object = None) -> KeptPicture:
        """Decode a picture in the process that keeps the fewest canvases.

        Args:
            owner: the owner of the request; owners take turns.
            task: the picture, and the way to decode it.
            request: the request; those of one owner take turns.

        Raises:
            LegradError: the picture cannot be decoded or fitted.
            PictureTimeoutError: it took too long.
            PictureMemoryError: it needed too much memory.
            PictureCrashError: the decoder crashed.
            PictureProcessEndedError: something else has ended the process.
            OutOfMemoryError: the server itself has no memory left.
        """
        decoded: KeptPicture = await self._run(
            PendingJob(owner, "decode", task, self._future(), request=request)
        )
        return decoded

    async def draw(
        self,
        owner: Hashable,
        maps: NDArray[np.floating],
        geometry: Geometry,
        rules: DrawingRules,
        canvas: int | None,
        source: Decode | None,
        request: object = None,
    ) -> DrawnImage:
        """Draw the maps of a picture in the process that keeps its canvas.

        Args:
            owner: the owner of the request; owners take turns.
            maps: ``[targets, rows, columns]``, the finite raw maps over the patch grid.
            geometry: how the patch grid maps to the picture.
            rules: the wanted pictures and numbers.
            canvas: number of the picture's canvas; None without an overlay.
            source: decodes the canvas again if its process has ended.
            request: the request; those of one owner take turns.

        Raises:
            ServiceError: see :meth:`decode`.
        """
        if rules.needs_numbers_only and maps.size <= _MOST_VALUES_AT_ONCE:
            return draw(maps, geometry, None, rules)
        task = Draw(maps, geometry, None, rules)
        job = PendingJob(owner, "draw", task, self._future(), canvas, source, request)
        drawn: DrawnImage = await self._run(job)
        return drawn

    @staticmethod
    def _future() -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_future()

    async def _run(self, job: PendingJob) -> Any:
        if self._closed:
            raise asyncio.CancelledError
        self._add(job)
        self._assign()
        try:
            return await job.answer
        except asyncio.CancelledError:
            if job.process is not None:
                await self._wait_for_end(job, job.process)
            elif not job.over:
                self._remove(job)
            raise

    @staticmethod
    async def _wait_for_end(job: PendingJob, process: PictureProcess) -> None:
        """Wait until nothing of a cancelled job runs any more: its request keeps its place."""
        if job.over:
            return

        def kill() -> None:
            # Once the job is over, the process may have another one.
            if not job.over:
                process.kill("cancelled")

        loop = asyncio.get_running_loop()
        job.ended = loop.create_future()
        killing = loop.call_later(_GRACE_SECONDS, kill)
        while not job.ended.done():
            # Bounded by the kill, however often it is cancelled.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([job.ended])
        killing.cancel()

    # Waiting jobs.

    def _add(self, job: PendingJob, *, first: bool = False) -> None:
        self._turns.add(job.owner, job.work, job, request=job.request, first=first)
        self._note_behind(job, 1)

    def _remove(self, job: PendingJob) -> None:
        self._turns.remove(job.owner, job.work, job, request=job.request)
        self._note_behind(job, -1)

    def _home(self, job: PendingJob) -> PictureProcess | None:
        return None if job.canvas is None else self._canvases.home(job.canvas)

    def _note_behind(self, job: PendingJob, change: int) -> None:
        home = self._home(job)
        if home is not None:
            self._behind[home] = self._behind.get(home, 0) + change

    def _fits(self, process: PictureProcess, job: PendingJob) -> bool:
        home = self._home(job)
        if home is None or home is process:
            return True
        return home not in self._idle and self._behind.get(home, 0) > _MOST_BEHIND

    def _wake(self, process: PictureProcess) -> bool:
        """Let an idle process drop canvases; return False if it is busy."""
        if process not in self._idle:
            return False
        process.tell(Order(None, 0, 0, process.take_dropped()))
        return True

    def _assign(self) -> None:
        """Give each idle process a job, as long as there are some."""
        for process in sorted(self._idle, key=lambda each: len(each.canvases)):
            # A job that cannot begin leaves the process idle, for the next one.
            while process in self._idle and not process.ended:
                job = self._turns.take(partial(self._fits, process))
                if job is None:
                    break
                self._note_behind(job, -1)
                self._begin(job, process)

    # Jobs in progress.

    def _begin(self, job: PendingJob, process: PictureProcess) -> None:
        if job.answer.cancelled():
            job.finish()
            return
        number = next(self._numbers)
        max_bytes = self._limits.max_bytes + sum(process.canvases.values())
        order = Order(self._task(job, process), number, max_bytes, process.take_dropped())
        try:
            process.ask(order)
        except MemoryError:
            process.dropped.extend(order.dropped)
            job.finish(error=no_memory())
            return
        self._idle.discard(process)
        job.process = process
        seconds = self._limits.seconds
        timer = asyncio.get_running_loop().call_later(seconds, process.kill, "time")
        self._runs[process] = Run(job, number, time.monotonic(), timer)

    def _take_answer(self, process: PictureProcess, answer: Any) -> None:
        """Finish the job of a process with its answer, and give it the next one."""
        if process.ended_for is not None and not isinstance(answer, Exception):
            # It is killed, and the job counts as the reason.
            return
        run = self._runs.pop(process, None)
        if run is None:
            process.kill("broken")
            return
        run.timer.cancel()
        self.capacity.record(run.job.work, time.monotonic() - run.began)
        self._settle(run.job, process, run.number, answer)
        if not process.ended:
            self._idle.add(process)
            self._assign()

    def _lose(self, process: PictureProcess, status: int | None) -> None:
        """Finish the job of a process that has ended without an answer."""
        run = self._runs.pop(process, None)
        if run is not None:
            run.timer.cancel()
            self.capacity.record(run.job.work, time.monotonic() - run.began)
            run.job.finish(
                error=error_of_end(run.job.work, process.ended_for, status, self._limits.seconds)
            )

    def _abandon(self, process: PictureProcess) -> None:
        """Cancel the request of a process's job, because the server ends."""
        run = self._runs.pop(process, None)
        if run is not None:
            run.timer.cancel()
            run.job.answer.cancel()
            run.job.finish()

    # Processes.

    async def _keep_process(self, launcher: Launcher) -> None:
        """Keep one process running until the task is cancelled."""
        backoff, failures = RestartBackoff(), 0
        while True:
            try:
                with contextlib.closing(launcher.launch()) as process:
                    try:
                        async with asyncio.timeout(_START_SECONDS):
                            await process.start(partial(self._take_answer, process))
                    except TimeoutError:
                        launcher.give_up(process)
                        raise
                    await self._use(process)
                failures = 0 if process.orders else failures + 1
            # Whatever fails here, for example for lack of memory: the server needs the process.
            except Exception as error:
                failures += 1
                _log.error("a picture process could not be started", reason=repr(error))
            # One that ends without a job is not replaced at once, again and again.
            if failures:
                await asyncio.sleep(backoff.delay_seconds(failures))

    async def _use(self, process: PictureProcess) -> None:
        """Give jobs to a process until it ends."""
        waiting = asyncio.create_task(process.wait())
        self._running.add(process)
        self._metrics.picture_processes.set(len(self._running))
        self._idle.add(process)
        self._assign()
        status: int | None = None
        try:
            status = await asyncio.shield(waiting)
        finally:
            reason = process.ended_for or "crashed"
            process.kill(reason)
            await asyncio.wait([waiting], timeout=_END_SECONDS)
            waiting.cancel()
            self._abandon(process) if self._closed else self._lose(process, status)
            self._idle.discard(process)
            self._running.discard(process)
            self._metrics.picture_processes.set(len(self._running))
            self._canvases.forget(process)
            self._behind.pop(process, None)
            # Drawings that waited for this process.
            self._assign()
        self._metrics.picture_process_ends.labels(reason).inc()
        _log.warning("a picture process ended", reason=reason, pid=process.pid, status=status)

    def _task(self, job: PendingJob, process: PictureProcess) -> Decode | Draw:
        if not isinstance(job.task, Draw) or job.canvas is None:
            return job.task
        kept = job.canvas in process.canvases
        return replace(job.task, canvas=job.canvas if kept else job.source)

    def _repeat(self, job: PendingJob) -> None:
        """Let another process carry out a job, before all that wait."""
        if self._closed:
            job.answer.cancel()
        if job.answer.cancelled():
            job.finish()
            return
        job.process = None
        self._add(job, first=True)
        self._assign()

    def _settle(self, job: PendingJob, process: PictureProcess, number: int, answer: Any) -> None:
        match answer:
            case Done(Decoded() as decoded):
                job.finish(self._decoded(decoded, process, number))
            case Done(drawn):
                job.finish(drawn)
            case Refused(error):
                job.finish(error=error)
            case OutOfMemory():
                process.kill("memory")
                if process.orders > 1 and not job.again:
                    # Memory that earlier pictures left in pieces must not decide.
                    job.again = True
                    self._repeat(job)
                else:
                    job.finish(error=error_of_memory(job.work))
            case Failed(trace):
                job.finish(error=RuntimeError(f"in a picture process:\n{trace}"))
            case Exception():
                job.finish(error=answer)
            case _:
                process.kill("broken")
                job.finish(error=error_of_end(job.work, "broken", None, self._limits.seconds))

    def _decoded(self, decoded: Decoded, process: PictureProcess, number: int) -> KeptPicture:
        canvas = None
        if decoded.canvas_size is not None:
            canvas = self._canvases.keep(number, decoded.canvas_size, process)
        return KeptPicture(decoded.geometry, decoded.prepared, canvas, decoded.seconds)
