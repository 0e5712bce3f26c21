"""Picture processes that decode and draw pictures, shared fairly among requests."""

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, assert_never

import numpy as np
import structlog
from numpy.typing import NDArray

from legrad_engine.images.geometry import Geometry
from legrad_engine.images.inputs import PreparedImage
from service.batching.pacing import RestartBackoff
from service.errors import OutOfMemoryError
from service.pictures.canvases import Canvases, KeptCanvas
from service.pictures.capacity import PictureCapacity
from service.pictures.drawing import DrawingRules, DrawnImage
from service.pictures.faults import error_of_end, error_of_memory
from service.pictures.jobs import Decode, Decoded, Done, Draw, Failed, Order, OutOfMemory, Refused
from service.pictures.processes import Launcher, PictureProcess
from service.pictures.turns import Turns, Work
from service.settings.values import PictureLimits
from service.telemetry.metrics import Metrics

# A job whose request was cancelled may end within this time; then its process is killed. Most jobs
# do, and a new process would lack the canvases of the old one.
_GRACE_SECONDS = 0.25
# For a killed process, when the server stops.
_END_SECONDS = 1.0
# Drawings that may wait for the process that has their canvas, while another one is idle. Beyond
# it, the idle one decodes the picture again.
_MOST_BEHIND = 2

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


@dataclass(slots=True, eq=False)
class _Job:
    """A job with its request.

    Attributes:
        owner: the request.
        work: the kind of work.
        task: the job; a drawing has its canvas from ``canvas`` and ``source``.
        answer: receives the result, after the process has really ended the job.
        canvas: number of the canvas that it draws on, or None.
        source: decodes that canvas again.
        process: the process that carries it out; None while it waits.
        again: whether it runs for the second time.
        left: whether its request was cancelled.
    """

    owner: object
    work: Work
    task: Decode | Draw
    answer: "asyncio.Future[Any]"
    canvas: int | None = None
    source: Decode | None = None
    process: PictureProcess | None = None
    again: bool = False
    left: bool = False


class PictureWorkers:
    """Carries out jobs in processes, in turns among requests.

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
        self._turns: Turns[_Job] = Turns()
        self.capacity = PictureCapacity(limits.processes, partial(self._turns.count, "decode"))
        self._numbers = itertools.count()
        self._running: set[PictureProcess] = set()
        # Idle processes; a job, or None to drop canvases, wakes them.
        self._idle: dict[PictureProcess, asyncio.Future[_Job | None]] = {}
        self._canvases = Canvases(self._wake)
        self._behind: dict[PictureProcess, int] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._launcher: Launcher | None = None

    @property
    def pids(self) -> list[int]:
        """The process ids of the running processes."""
        return [process.pid for process in self._running]

    @property
    def busy(self) -> int:
        """The number of processes that carry out a job."""
        return len(self._running) - len(self._idle)

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
        """End the processes; jobs in progress are abandoned."""
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

    async def decode(self, owner: object, task: Decode) -> KeptPicture:
        """Decode a picture in the process that keeps the fewest canvases.

        Args:
            owner: the request; requests take turns.
            task: the picture, and the way to decode it.

        Raises:
            LegradError: the picture cannot be decoded or fitted.
            PictureTimeoutError: it took too long.
            PictureMemoryError: it needed too much memory.
            PictureCrashError: the decoder crashed.
            PictureProcessEndedError: something else has ended the process.
            OutOfMemoryError: the server itself has no memory left.
        """
        decoded: KeptPicture = await self._run(_Job(owner, "decode", task, self._future()))
        return decoded

    async def draw(
        self,
        owner: object,
        maps: NDArray[np.floating],
        geometry: Geometry,
        rules: DrawingRules,
        canvas: int | None,
        source: Decode | None,
    ) -> DrawnImage:
        """Draw the maps of a picture in the process that keeps its canvas.

        Args:
            owner: the request; requests take turns.
            maps: ``[targets, rows, columns]``, the finite raw maps over the patch grid.
            geometry: how the patch grid maps to the picture.
            rules: the wanted pictures and numbers.
            canvas: number of the picture's canvas; None without an overlay.
            source: decodes the canvas again if its process has ended.

        Raises:
            ServiceError: see :meth:`decode`.
        """
        task = Draw(maps, geometry, None, rules)
        job = _Job(owner, "draw", task, self._future(), canvas, source)
        drawn: DrawnImage = await self._run(job)
        return drawn

    @staticmethod
    def _future() -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_future()

    async def _run(self, job: _Job) -> Any:
        self._add(job)
        self._assign()
        try:
            return await asyncio.shield(job.answer)
        except asyncio.CancelledError:
            job.left = True
            if job.process is None:
                self._remove(job)
            else:
                await self._wait_for_end(job, job.process)
            raise

    @staticmethod
    async def _wait_for_end(job: _Job, process: PictureProcess) -> None:
        """Wait until nothing of a cancelled job runs any more: its request keeps its place."""

        def kill() -> None:
            if not job.answer.done():
                process.kill("cancelled")

        killing = job.answer.get_loop().call_later(_GRACE_SECONDS, kill)
        while not job.answer.done():
            # Bounded by the kill, however often it is cancelled.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([job.answer])
        killing.cancel()
        # Nobody else asks for it, and asyncio would log an error that nobody has asked for.
        if not job.answer.cancelled():
            job.answer.exception()

    # Waiting jobs.

    def _add(self, job: _Job, *, first: bool = False) -> None:
        self._turns.add(job.owner, job.work, job, first=first)
        self._note_behind(job, 1)

    def _remove(self, job: _Job) -> None:
        self._turns.remove(job.owner, job.work, job)
        self._note_behind(job, -1)

    def _home(self, job: _Job) -> PictureProcess | None:
        return None if job.canvas is None else self._canvases.home(job.canvas)

    def _note_behind(self, job: _Job, change: int) -> None:
        home = self._home(job)
        if home is not None:
            self._behind[home] = self._behind.get(home, 0) + change

    def _fits(self, process: PictureProcess, job: _Job) -> bool:
        home = self._home(job)
        if home is None or home is process:
            return True
        return home not in self._idle and self._behind.get(home, 0) > _MOST_BEHIND

    def _wake(self, process: PictureProcess) -> bool:
        """Let an idle process drop canvases; return False if it is busy."""
        waiting = self._idle.get(process)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(None)
        return True

    def _assign(self) -> None:
        """Give each idle process a job, as long as there are some."""
        for process in sorted(self._idle, key=lambda each: len(each.canvases)):
            waiting = self._idle[process]
            if waiting.done() or process.ended_for is not None:
                continue
            job = self._turns.take(partial(self._fits, process))
            if job is not None:
                self._note_behind(job, -1)
                del self._idle[process]
                job.process = process
                waiting.set_result(job)

    # Processes.

    async def _keep_process(self, launcher: Launcher) -> None:
        """Keep one process running until the task is cancelled."""
        backoff, failures = RestartBackoff(), 0
        while True:
            try:
                with contextlib.closing(launcher.launch()) as process:
                    await process.wait_until_ready()
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
        ended = asyncio.create_task(process.wait())
        self._running.add(process)
        self._metrics.picture_processes.set(len(self._running))
        try:
            while (job := await self._next_job(process, ended)) is not None:
                await self._carry_out(job, process, ended)
                # It would keep the canvas of its answer until the next job.
                del job
        finally:
            self._running.discard(process)
            self._metrics.picture_processes.set(len(self._running))
            self._canvases.forget(process)
            self._behind.pop(process, None)
            # Drawings that waited for this process.
            self._assign()
            reason = process.ended_for or "crashed"
            process.kill(reason)
            await asyncio.wait([ended], timeout=_END_SECONDS)
            ended.cancel()
        status = ended.result() if ended.done() and not ended.cancelled() else None
        self._metrics.picture_process_ends.labels(reason).inc()
        _log.warning("a picture process ended", reason=reason, pid=process.pid, status=status)

    async def _next_job(
        self, process: PictureProcess, ended: "asyncio.Task[int | None]"
    ) -> _Job | None:
        """Wait for a job; return None once the process has ended."""
        while not ended.done() and process.ended_for is None:
            waiting: asyncio.Future[_Job | None] = self._future()
            self._idle[process] = waiting
            try:
                self._assign()
                wanted: list[asyncio.Future[Any]] = [waiting, ended]
                await asyncio.wait(wanted, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._idle.pop(process, None)
            job = waiting.result() if waiting.done() else None
            if job is not None:
                if not ended.done() and process.ended_for is None:
                    return job
                # The process had ended before.
                self._repeat(job)
            elif process.dropped:
                order = Order(None, 0, 0, process.take_dropped())
                with contextlib.suppress(OSError):
                    await process.tell(order)
        return None

    async def _carry_out(
        self, job: _Job, process: PictureProcess, ended: "asyncio.Task[int | None]"
    ) -> None:
        loop = asyncio.get_running_loop()
        if job.left:
            job.answer.cancel()
            return
        number = next(self._numbers)
        dropped = process.take_dropped()
        max_bytes = self._limits.max_bytes + sum(process.canvases.values())
        order = Order(self._task(job, process), number, max_bytes, dropped)
        began = time.monotonic()
        timer = loop.call_later(self._limits.seconds, process.kill, "time")
        try:
            answer = await process.ask(order)
        except asyncio.CancelledError:
            job.answer.cancel()
            raise
        except MemoryError:
            process.kill("broken")
            answer = OutOfMemoryError("The server has no memory left; try again in a moment.")
        except (OSError, EOFError):
            # It was killed or has crashed; the launcher is about to report how.
            await asyncio.wait([ended], timeout=_END_SECONDS)
            answer = None
        # Bytes that are no message raise errors of nearly any type.
        except Exception:
            answer = None
        finally:
            timer.cancel()
        if process.ended_for is not None or answer is None:
            if not ended.done():
                process.kill("broken")
            status = await ended
            answer = answer or error_of_end(
                job.work, process.ended_for, status, self._limits.seconds
            )
        self.capacity.record(job.work, time.monotonic() - began)
        self._settle(job, process, number, answer)

    def _task(self, job: _Job, process: PictureProcess) -> Decode | Draw:
        if not isinstance(job.task, Draw) or job.canvas is None:
            return job.task
        kept = job.canvas in process.canvases
        return replace(job.task, canvas=job.canvas if kept else job.source)

    def _repeat(self, job: _Job) -> None:
        """Let another process carry out a job, before all that wait."""
        job.process = None
        if job.left:
            job.answer.cancel()
        else:
            self._add(job, first=True)
            self._assign()

    def _settle(self, job: _Job, process: PictureProcess, number: int, answer: Any) -> None:
        match answer:
            case Done(Decoded() as decoded):
                job.answer.set_result(self._decoded(decoded, process, number))
            case Done(drawn):
                job.answer.set_result(drawn)
            case Refused(error):
                job.answer.set_exception(error)
            case OutOfMemory():
                process.kill("memory")
                if process.orders > 1 and not job.again:
                    # Memory that earlier pictures left in pieces must not decide.
                    job.again = True
                    self._repeat(job)
                else:
                    job.answer.set_exception(error_of_memory(job.work))
            case Failed(trace):
                job.answer.set_exception(RuntimeError(f"in a picture process:\n{trace}"))
            case Exception():
                job.answer.set_exception(answer)
            case _:
                assert_never(answer)

    def _decoded(self, decoded: Decoded, process: PictureProcess, number: int) -> KeptPicture:
        canvas = None
        if decoded.canvas_size is not None:
            canvas = self._canvases.keep(number, decoded.canvas_size, process)
        return KeptPicture(decoded.geometry, decoded.prepared, canvas, decoded.seconds)
