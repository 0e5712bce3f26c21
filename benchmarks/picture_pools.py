"""Picture processes against threads: the same jobs, behind an event loop that is busy.

For each picture the event loop also runs Python for as long as a default request costs it. Workers
on more cores than the machine has are simulated: their jobs sleep for as long as the real ones
take. Sleeping threads never hold the interpreter's lock, so this is the best case of threads.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks import workload
from benchmarks.idle_job import Idle
from benchmarks.report import Row
from legrad_engine.images.inputs import InputRules
from service.pictures.drawing import DrawingRules
from service.pictures.jobs import Canvases, Decode, Draw
from service.pictures.workers import PictureWorkers
from service.settings.values import PictureLimits, PictureRules
from service.telemetry.metrics import Metrics

Kind = Literal["processes", "threads"]
KINDS: tuple[Kind, ...] = ("processes", "threads")
WORKERS = (1, 2, 4)
SIMULATED_WORKERS = (8, 16)
LOOP_SECONDS = 0.004
_SECONDS = 2.5
_PICTURES_AT_REST = 20
_START_SECONDS = 60.0
_SIZE, _SIDE = (1152, 864), 1024
_RULES = PictureRules(64_000_000)
_INPUT = InputRules(224, (16, 16), "squash", "bicubic")
_DRAWING = DrawingRules("png", True, "turbo", 0.6, "each", 0.5, _SIDE)

Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Task:
    """The work of one picture.

    Attributes:
        encoded: its file.
        maps: ``[targets, rows, columns]``.
        idle_seconds: time that each of decoding and drawing sleeps for; None for real work.
    """

    encoded: bytes
    maps: NDArray[np.float32]
    idle_seconds: float | None

    def decode(self) -> Decode:
        """Return the job that decodes it."""
        if self.idle_seconds is not None:
            return cast(Decode, Idle(self.idle_seconds))
        return Decode(PickleBuffer(self.encoded), _RULES, _INPUT, None, _SIDE)


def measure() -> list[Row]:
    """Measure images per second and latency at rest; takes about a minute."""
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    maps = np.random.default_rng(0).random((4, 14, 14), np.float32)
    task = _Task(workload.jpeg(*_SIZE, 0), maps, None)
    rows = []
    at_rest: dict[Kind, float] = {}
    for kind in KINDS:
        for workers in WORKERS:
            async with _pool(kind, workers, task) as work:
                if workers == WORKERS[0]:
                    at_rest[kind] = await _latency(work)
                rate = await _rate(work, 2 * workers)
            rows.append(Row(f"images per second, {kind}: {workers}", rate, unit="/s"))
    rows += [
        Row(f"decoding and drawing at rest, {kind}", 1000 * seconds, unit="ms")
        for kind, seconds in at_rest.items()
    ]
    idle = _Task(b"", maps, at_rest["threads"] / 2)
    for workers, kind in itertools.product(SIMULATED_WORKERS, KINDS):
        async with _pool(kind, workers, idle) as work:
            rate = await _rate(work, 2 * workers)
        rows.append(Row(f"images per second, simulated {kind}: {workers}", rate, unit="/s"))
    return rows


@asynccontextmanager
async def _pool(kind: Kind, workers: int, task: _Task) -> AsyncIterator[Work]:
    """Start workers; yield the function that has one picture decoded and drawn by them."""
    if kind == "threads":
        with ThreadPoolExecutor(workers) as executor:
            yield lambda: _in_threads(executor, task)
        return
    pool = PictureWorkers(PictureLimits(workers, 60.0, 10**9), Metrics([], [], []))
    pool.start()
    try:
        async with asyncio.timeout(_START_SECONDS):
            while len(pool.pids) < workers:
                await asyncio.sleep(0.01)
        yield lambda: _in_processes(pool, task)
    finally:
        await pool.close()


async def _in_processes(pool: PictureWorkers, task: _Task) -> None:
    owner = object()
    kept = await pool.decode(owner, task.decode())
    if task.idle_seconds is not None:
        await pool.decode(owner, task.decode())
        return
    assert kept.canvas is not None
    source = task.decode()
    await pool.draw(owner, task.maps, kept.geometry, _DRAWING, kept.canvas.number, source)


async def _in_threads(executor: ThreadPoolExecutor, task: _Task) -> None:
    loop = asyncio.get_running_loop()
    canvases: Canvases = {}
    decoded = await loop.run_in_executor(executor, task.decode().run, canvases, 0)
    if task.idle_seconds is not None:
        await loop.run_in_executor(executor, task.decode().run, canvases, 0)
        return
    draw = Draw(task.maps, decoded.geometry, 0, _DRAWING)
    await loop.run_in_executor(executor, draw.run, canvases, 0)


async def _latency(work: Work) -> float:
    seconds = []
    for _ in range(_PICTURES_AT_REST):
        began = time.perf_counter()
        await work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def _rate(work: Work, clients: int) -> float:
    began = time.perf_counter()
    until = began + _SECONDS
    done = 0

    async def drive() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await work()
            _run_python(LOOP_SECONDS)
            done += 1

    await asyncio.gather(*(drive() for _ in range(clients)))
    return done / (time.perf_counter() - began)


def _run_python(seconds: float) -> None:
    """Hold the interpreter's lock, as the event loop of a server does."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
