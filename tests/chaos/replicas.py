"""Two replicas behind the deployed balancer: started, measured, killed and started again."""

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.chaos import program
from tests.support.running_balancer import Balancer
from tests.support.running_server import Server

REQUEST_SECONDS = 5.0
"""Deadline of a request."""

STALL_SECONDS = 7.0
"""Longer than a deadline: for a while requests time out behind a worker that hangs."""

PICTURE_SECONDS = 4.0

_HOSTS = ("127.0.0.2", "127.0.0.3")
_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
_PIPE_BYTES = 4096
_PATIENCE_SECONDS = 60.0
_SETTINGS: dict[str, object] = {
    "request_timeout_seconds": REQUEST_SECONDS,
    "stall_timeout_seconds": STALL_SECONDS,
    "picture_timeout_seconds": PICTURE_SECONDS,
    "picture_processes": 2,
    "trace_cache_bytes": 4_000_000,
    # As deployed: longer than the balancer takes to notice.
    "shutdown_delay_seconds": 5,
    "drain_timeout_seconds": 10,
}


@dataclass(frozen=True, slots=True)
class Level:
    """What a replica holds at rest.

    Attributes:
        megabytes: memory that its processes share with no others.
        descriptors: open file descriptors of the server and the launcher of picture processes.
        threads: threads of the server.
        processes: number of processes.
    """

    megabytes: float
    descriptors: int
    threads: int
    processes: int


class _StalledReading(Server):
    """A server whose log is read only while nobody stalls the reader."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.reads = threading.Event()
        self.reads.set()
        super().__init__(*arguments, **options)
        assert self._process.stderr is not None
        # A stalled reader is felt soon.
        fcntl.fcntl(self._process.stderr.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.reads.wait()
            self._errors.append(line)


class Replica:
    """One replica, which is started again with the same address.

    Attributes:
        number: 1 or 2, as the balancer counts.
        switches: folder of the files that turn faults on.
        started: instant at which the present process was started, on the monotonic clock.
        server: the present process.
    """

    def __init__(self, number: int, models: str, folder: Path, *, forked: bool) -> None:
        """Start it and wait until it is ready.

        Args:
            number: 1 or 2. The first one logs to a pipe, the second one to a file.
            models: setting of this name.
            folder: for its files.
            forked: whether it is forked from a warm process: it starts at once, but its clock
                cannot be changed.
        """
        self.number = number
        self.switches = folder / f"switches-{number}"
        self.switches.mkdir()
        self.has_clock = not forked
        self._clock = folder / f"clock-{number}"
        self._log = folder / f"log-{number}" if number == 2 else None
        self._models = models
        self.set_clock(0)
        self._port = 0
        self.server = self._start()
        self._port = self.server.port
        self.wait_until_ready()

    def close(self) -> None:
        """Kill the process."""
        self.server.reads.set()
        for child in self.tree()[1:]:
            # A stopped process would otherwise outlive them.
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.server.__exit__()

    def start_again(self) -> None:
        """Start a new process after the last one has ended, and wait until it is ready."""
        self.server.reads.set()
        self.server.__exit__()
        for switch in self.switches.iterdir():
            switch.unlink()
        self.server = self._start()
        self.wait_until_ready()

    @property
    def address(self) -> str:
        """Its `HOST:PORT`."""
        return f"{self.server.host}:{self.server.port}"

    @property
    def logs_to_file(self) -> bool:
        """Whether its log goes to a file."""
        return self._log is not None

    def set_clock(self, seconds: int) -> None:
        """Shift its wall clock, and that of its picture processes, by so much."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._clock)

    def wait_until_ready(self) -> None:
        """Wait, for a bounded time, until it is ready."""
        self.server.wait_for_health()

    def tree(self) -> list[psutil.Process]:
        """Return its processes: the server, the launcher of picture processes, those."""
        try:
            first = psutil.Process(self.server.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def launcher(self) -> psutil.Process | None:
        """Return the launcher of its picture processes."""
        for each in self.tree()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if each.ppid() == self.server.pid:
                    return each
        return None

    def picture_processes(self) -> list[psutil.Process]:
        """Return its picture processes."""
        launcher = self.launcher()
        with contextlib.suppress(psutil.NoSuchProcess):
            return [] if launcher is None else launcher.children()
        return []

    def level(self) -> Level:
        """Measure it."""
        megabytes, descriptors, threads = 0.0, 0, 0
        tree = self.tree()
        for number, each in enumerate(tree):
            with contextlib.suppress(psutil.NoSuchProcess):
                megabytes += each.memory_full_info().uss / 1e6
                # The picture processes hold descriptors of each other for a moment.
                descriptors += each.num_fds() if number < 2 else 0
                threads += each.num_threads() if number == 0 else 0
        return Level(megabytes, descriptors, threads, len(tree))

    def answers(self) -> dict[int, int]:
        """Return the number of explanations answered with each status, from ``/metrics``."""
        counted: dict[int, int] = {}
        for line in self.server.client.get("/metrics").text.splitlines():
            if line.startswith("legrad_requests_total{"):
                labels, _, value = line.removeprefix("legrad_requests_total{").rpartition("} ")
                named = dict(each.split("=", 1) for each in labels.split(","))
                if not named["route"].strip('"').startswith(("/health", "/metrics")):
                    status = int(named["status"].strip('"'))
                    counted[status] = counted.get(status, 0) + int(float(value))
        return {status: count for status, count in counted.items() if count}

    def _start(self) -> _StalledReading:
        self.started = time.monotonic()
        settings = _SETTINGS | {"host": _HOSTS[self.number - 1], "port": self._port}
        if not self.has_clock:
            start = program.program(self.switches, self._log)
            return _StalledReading(self._models, program=start, **settings)
        assert _LIBRARY.exists(), "The clock is changed by libfaketime: apt-get install faketime."
        added = program.variables(self.switches, self._log) | {
            "LD_PRELOAD": str(_LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            # It would otherwise read the file at every look at a clock.
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        command = [sys.executable, "-m", "tests.chaos.program"]
        chosen = ["/usr/bin/env", *(f"{name}={value}" for name, value in added.items())]
        return _StalledReading(self._models, program=[*chosen, *command], **settings)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A request in the balancer's log.

    Attributes:
        request_id: its id.
        status: status of the answer; -1 if there was none.
        replica: number of the replica that was asked last; 0 for none.
        ended: how it ended, in HAProxy's two letters; `--` for an answer of the replica.
    """

    request_id: str
    status: int
    replica: int
    ended: str

    @property
    def lost_in_request(self) -> bool:
        """Whether the replica was lost while the request's body was on its way.

        HAProxy 2.6 closes the caller's connection then, without an answer.
        """
        return self.status == -1 and self.ended == "SD"


class Site:
    """Two replicas and their balancer, as a context manager."""

    def __init__(self, models: Sequence[str], folder: Path, *, forked: bool) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self.replicas: list[Replica] = []
            for number in (1, 2):
                replica = Replica(number, ",".join(models), folder, forked=forked)
                undo.callback(replica.close)
                self.replicas.append(replica)
            self._log = folder / "balancer.log"
            stream = undo.enter_context(self._log.open("wb"))
            # The balancer ends first.
            addresses = [each.address for each in self.replicas]
            self.balancer = undo.enter_context(Balancer(*addresses, log=stream))
            self.balancer.wait_for_replicas("UP", "UP")
            self._stack = undo.pop_all()
        # Lines of the balancer's log before the present process of each replica.
        self._before = dict.fromkeys((1, 2), 0)
        self._asked: list[tuple[Replica, float, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def forwarded(self, *, since_start_of: Replica | None = None) -> list[Forwarded]:
        """Return the requests in the balancer's log, all or those to the present process."""
        skipped = 0 if since_start_of is None else self._before[since_start_of.number]
        lines = self._log.read_text().splitlines()[skipped:]
        found = [json.loads(line) for line in lines if line.startswith("{")]
        requests = [
            Forwarded(
                each["request_id"],
                int(each["status"]),
                int(each["replica"][-1]) if each["replica"].startswith("replica-") else 0,
                each["ended"],
            )
            for each in found
        ]
        if since_start_of is None:
            return requests
        return [each for each in requests if each.replica == since_start_of.number]

    def kill(self, replica: Replica) -> None:
        """Kill a replica with SIGKILL."""
        replica.server.signal(signal.SIGKILL)
        replica.server.wait()

    def start_again(self, replica: Replica) -> None:
        """Start a replica again after its end; requests from now on count as the new process's."""
        self._before[replica.number] = len(self._log.read_text().splitlines())
        replica.start_again()

    def asked(self, replica: Replica) -> list[int]:
        """Return the statuses of the site's own requests to the present process of a replica."""
        return [
            status
            for asked, began, status in self._asked
            if asked is replica and began >= replica.started
        ]

    def wait_until_served(self, models: Sequence[str], body: dict[str, Any]) -> dict[int, float]:
        """Wait, for a bounded time, until both replicas and the balancer answer for each model.

        Returns:
            For each replica the instant of it, by its number.
        """
        instants: dict[int, float] = {}

        def answers(replica: Replica, model: str) -> bool:
            began, status = time.monotonic(), 0
            with contextlib.suppress(httpx.TransportError):
                status = replica.server.client.post(
                    "/explain", json={**body, "model": model}
                ).status_code
            self._asked.append((replica, began, status))
            return status == 200

        def served() -> bool:
            for replica in self.replicas:
                if replica.number not in instants and all(answers(replica, m) for m in models):
                    instants[replica.number] = time.monotonic()
            return len(instants) == len(self.replicas)

        wait_until(served, "the replicas answer again")
        self.balancer.wait_for_replicas("UP", "UP")
        return instants


def wait_until(holds: Callable[[], bool], wanted: str, seconds: float = _PATIENCE_SECONDS) -> None:
    """Wait, for a bounded time, until a condition holds."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not within {seconds:g} s: {wanted}.")
        pause.wait(0.05)


def stop(process: psutil.Process) -> None:
    """Stop a process, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGSTOP)


def resume(process: psutil.Process) -> None:
    """Resume a process, unless it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()
