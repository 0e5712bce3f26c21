"""Picture workers on an event loop of their own, and jobs for them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import numpy as np

from legrad_engine.images.inputs import InputRules
from service.pictures.drawing import DrawingRules, DrawnImage
from service.pictures.jobs import Decode
from service.pictures.processes import Launcher
from service.pictures.workers import KeptPicture, PictureWorkers
from service.settings.values import PictureLimits, PictureRules
from service.telemetry.metrics import Metrics
from tests.support.pictures import encoded

RULES = PictureRules(40_000_000)
INPUT = InputRules(64, (16, 16), "squash", "bicubic")
DRAWING: dict[str, Any] = {
    "heatmap": "none",
    "overlay": True,
    "colormap": "turbo",
    "alpha": 0.5,
    "normalize": "each",
    "regions_threshold": None,
    "max_side": 100,
}
MAPS = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
_PATIENCE_SECONDS = 60.0


@contextlib.asynccontextmanager
async def started(
    processes: int = 1,
    seconds: float = 60,
    max_bytes: int = 1_000_000_000,
    metrics: Metrics | None = None,
) -> AsyncIterator[PictureWorkers]:
    """Start workers and wait until all their processes run; close them afterwards."""
    limits = PictureLimits(processes, seconds, max_bytes)
    workers = PictureWorkers(limits, metrics or Metrics([], [], []))
    workers.start()
    try:
        await until(lambda: len(workers.pids) == processes)
        yield workers
    finally:
        await workers.close()


async def until(holds: Any) -> None:
    """Wait, for a bounded time, until a condition holds."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.005)


async def queued(*jobs: Coroutine[Any, Any, Any]) -> "list[asyncio.Task[Any]]":
    """Start tasks with jobs, and return them once the jobs are queued."""
    tasks = [asyncio.create_task(job) for job in jobs]
    await asyncio.sleep(0)
    return tasks


def decoding(data: bytes | None = None, max_side: int | None = 100, **changes: Any) -> Decode:
    """Return a job."""
    rules = {"rules": RULES, "input_rules": INPUT, "geometry": None, **changes}
    return Decode(PickleBuffer(data or encoded()), max_side=max_side, **rules)


async def drawing(
    workers: PictureWorkers, decoded: KeptPicture, source: Decode | None = None, owner: Any = "a"
) -> DrawnImage:
    """Draw the overlay of a decoded picture."""
    assert decoded.canvas is not None
    return await workers.draw(
        owner,
        MAPS,
        decoded.geometry,
        DrawingRules(**DRAWING | {"max_side": max(decoded.canvas.size)}),
        decoded.canvas.number,
        source or decoding(geometry=decoded.geometry),
    )


@contextlib.contextmanager
def own_launcher() -> Iterator[None]:
    """Give workers that start in the context a launcher that a test may stop or kill.

    The one that all tests share has processes of other applications too.
    """
    shared, Launcher._shared = Launcher._shared, None
    try:
        yield
    finally:
        Launcher._shared = shared


@contextlib.contextmanager
def paused(workers: PictureWorkers) -> Iterator[None]:
    """Stop all processes while the context lasts: they hang as a slow decoder does."""
    pids = workers.pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def runs(pid: int) -> bool:
    """Whether a process runs and is no zombie; on Linux only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the running descendants of a process; on Linux only."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        each = parents.get(waiting.pop(), [])
        waiting += each
        found += each
    return [each for each in found if runs(each)]
