"""The faults, each injected from outside: by signals, limits, files and the reader of the log."""

import contextlib
import os
import random
import resource
import signal
from abc import ABC, abstractmethod
from typing import ClassVar

import psutil

from tests.chaos import program
from tests.chaos.replicas import Replica, Site, resume, stop, wait_until

_UNREADY = frozenset({"not-ready", "no-replica", "worker-unavailable"})
_PICTURES = frozenset({"picture-process-ended", "deadline-exceeded", "not-ready", "no-replica"})
_WORKER = _UNREADY | {"worker-died", "worker-stalled", "deadline-exceeded", "shutting-down"}


class Fault(ABC):
    """A fault that lasts for a while.

    Attributes:
        name: for the table.
        seconds: shortest and longest time that it lasts.
        explains: codes of the problems that valid requests may get because of it.
        recovers: seconds after its end within which requests succeed again.
        unready: whether the replica says that it is not ready though it answers.
        restarts: whether the replica ends, and is started again.
    """

    name: ClassVar[str]
    seconds: ClassVar[tuple[float, float]] = (0.5, 3.0)
    explains: ClassVar[frozenset[str]] = frozenset()
    recovers: ClassVar[float] = 5.0
    unready: ClassVar[bool] = False
    restarts: ClassVar[bool] = False

    def suits(self, replica: Replica) -> bool:
        """Return whether the fault can be injected into this replica."""
        return True

    @abstractmethod
    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        """Inject it."""

    def end(self, site: Site, replica: Replica) -> None:  # noqa: B027
        """Take it away, if it does not pass by itself."""


class WorkerDies(Fault):
    """The next batch kills the worker."""

    name = "a model worker dies"
    seconds = (0.5, 1.0)
    explains = _WORKER

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        switch = replica.switches / program.DIE
        switch.touch()
        wait_until(lambda: not switch.exists(), "a worker died")


class WorkerHangs(Fault):
    """Every batch hangs, shorter or longer than deadlines and the watchdog's limit."""

    name = "model workers hang"
    seconds = (1.0, 9.0)
    explains = _WORKER | {"queue-full", "too-many-requests"}

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        (replica.switches / program.HANG).touch()

    def end(self, site: Site, replica: Replica) -> None:
        (replica.switches / program.HANG).unlink(missing_ok=True)


class BatchDoesNotFit(Fault):
    """No batch gets memory."""

    name = "no batch gets memory"
    explains = frozenset({"out-of-memory"})

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        (replica.switches / program.NO_MEMORY).touch()

    def end(self, site: Site, replica: Replica) -> None:
        (replica.switches / program.NO_MEMORY).unlink(missing_ok=True)


class PictureProcessKilled(Fault):
    """One picture process, or all, are killed."""

    name = "picture processes are killed"
    seconds = (0.1, 1.0)
    explains = _PICTURES

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        for each in _chosen(replica.picture_processes(), chance):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


class PictureProcessStopped(Fault):
    """One picture process, or all, are stopped as by a hanging decoder."""

    name = "picture processes are stopped"
    # Shorter or longer than the limit of a picture.
    seconds = (0.5, 7.0)
    explains = _PICTURES | {"picture-timeout", "too-many-requests", "queue-full"}

    def __init__(self) -> None:
        self._stopped: list[psutil.Process] = []

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        self._stopped = _chosen(replica.picture_processes(), chance)
        for each in self._stopped:
            stop(each)

    def end(self, site: Site, replica: Replica) -> None:
        for each in self._stopped:
            resume(each)


class LauncherKilled(Fault):
    """The launcher of the picture processes is killed, and they with it."""

    name = "the launcher is killed"
    seconds = (0.1, 1.0)
    explains = _PICTURES
    # It imports NumPy and Pillow again.
    recovers = 8.0

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        launcher = replica.launcher()
        if launcher is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                launcher.kill()


class LauncherStopped(Fault):
    """The launcher hangs while a picture process ends, so that nobody reports or replaces it."""

    name = "the launcher is stopped"
    seconds = (0.5, 8.0)
    explains = _PICTURES
    recovers = 8.0

    def __init__(self) -> None:
        self._stopped: list[psutil.Process] = []

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        pictures, launcher = replica.picture_processes(), replica.launcher()
        if launcher is None:
            return
        self._stopped = [launcher]
        stop(launcher)
        for each in _chosen(pictures, chance):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)

    def end(self, site: Site, replica: Replica) -> None:
        for each in self._stopped:
            resume(each)


class DiskFull(Fault):
    """No file can grow: that of the log, and every other one."""

    name = "the disk is full"
    seconds = (1.0, 4.0)

    def suits(self, replica: Replica) -> bool:
        return replica.logs_to_file

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        _, hard = resource.prlimit(replica.server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(replica.server.pid, resource.RLIMIT_FSIZE, (0, hard))

    def end(self, site: Site, replica: Replica) -> None:
        if replica.server.alive:
            replica.server.lift_file_limit()


class ClockJumps(Fault):
    """The wall clock jumps, forwards or backwards, by a minute to a year."""

    name = "the clock jumps"

    def suits(self, replica: Replica) -> bool:
        return replica.has_clock

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        seconds = chance.choice((60, 3_600, 86_400, 31_536_000))
        replica.set_clock(chance.choice((-1, 1)) * seconds)

    def end(self, site: Site, replica: Replica) -> None:
        replica.set_clock(0)


class MemoryRunsOut(Fault):
    """The address space of the server may hardly grow."""

    name = "the server's memory runs out"
    seconds = (0.5, 2.0)
    explains = _WORKER | _PICTURES | {"out-of-memory"}

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        used = psutil.Process(replica.server.pid).memory_info().vms
        _, hard = resource.prlimit(replica.server.pid, resource.RLIMIT_AS)
        limit = used + chance.randrange(0, 8_000_000)
        resource.prlimit(replica.server.pid, resource.RLIMIT_AS, (limit, hard))

    def end(self, site: Site, replica: Replica) -> None:
        if replica.server.alive:
            _, hard = resource.prlimit(replica.server.pid, resource.RLIMIT_AS)
            resource.prlimit(replica.server.pid, resource.RLIMIT_AS, (hard, hard))


class LogStalls(Fault):
    """Nobody reads the log, a pipe."""

    name = "the reader of the log stalls"
    seconds = (3.0, 8.0)

    def suits(self, replica: Replica) -> bool:
        return not replica.logs_to_file

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        replica.server.reads.clear()

    def end(self, site: Site, replica: Replica) -> None:
        replica.server.reads.set()


class ReplicaKilled(Fault):
    """The process of the server is killed, and started again afterwards."""

    name = "a replica is killed"
    restarts = True
    explains = frozenset({"replica-lost", "no-replica"})

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        site.kill(replica)

    def end(self, site: Site, replica: Replica) -> None:
        site.start_again(replica)


class ReplicaDrains(Fault):
    """The server is told to stop, answers what it has accepted, and is started again."""

    name = "a replica drains"
    unready = True
    restarts = True

    def begin(self, site: Site, replica: Replica, chance: random.Random) -> None:
        replica.server.signal(signal.SIGTERM)
        status = replica.server.wait()
        if status != 0:
            raise AssertionError(f"It ended with {status} after SIGTERM.")

    def end(self, site: Site, replica: Replica) -> None:
        site.start_again(replica)


FAULTS: tuple[type[Fault], ...] = (
    WorkerDies,
    WorkerHangs,
    BatchDoesNotFit,
    PictureProcessKilled,
    PictureProcessStopped,
    LauncherKilled,
    LauncherStopped,
    DiskFull,
    ClockJumps,
    MemoryRunsOut,
    LogStalls,
    ReplicaKilled,
    ReplicaDrains,
)


def _chosen(processes: list[psutil.Process], chance: random.Random) -> list[psutil.Process]:
    """Choose one process, or all. Draw in any case, so that a seed decides what follows."""
    alone, which = chance.random() < 0.5, chance.random()
    return [processes[int(which * len(processes))]] if alone and processes else processes
