"""Gauges that are read at each scrape: readiness, models, picture processes, and limits."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.pool.model_pool import ModelPool
from service.pool.readiness import Readiness
from service.schemas.models import ModelState

_CONTROL_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class ServerState(Collector):
    """Gauges that are read at each scrape, so that they are never outdated.

    The limits are exported for alerts: their rules need no numbers of their own.
    """

    def __init__(
        self,
        pool: ModelPool,
        readiness: Readiness,
        picture_processes: Callable[[], Iterable[int]],
        request_timeout_seconds: float,
        max_queue_cost: float,
    ) -> None:
        """Read the state of the parts of a server.

        Args:
            pool: the models.
            readiness: the readiness.
            picture_processes: returns the ids of the running picture processes.
            request_timeout_seconds: longest deadline of a request.
            max_queue_cost: most work that may wait for one model.
        """
        self._pool = pool
        self._readiness = readiness
        self._picture_processes = picture_processes
        self._limits = {
            "legrad_request_timeout_seconds": (
                "Longest deadline of a request.",
                request_timeout_seconds,
            ),
            "legrad_queue_cost_limit": (
                "Most work that may wait for one model.",
                max_queue_cost,
            ),
            "legrad_memory_limit_bytes": (
                "Memory that the server and its picture processes may take, of its container or of "
                "the machine.",
                memory_limit(),
            ),
        }

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all gauges. Call it on the event loop, where the models change."""
        yield GaugeMetricFamily(
            "legrad_ready",
            "Whether a request that names no model would be answered.",
            value=float(self._readiness.ready),
        )
        states = GaugeMetricFamily(
            "legrad_model_state",
            "1 for the state that the model is in.",
            labels=("model", "state"),
        )
        depths = GaugeMetricFamily("legrad_queue_depth", "Images in the queue.", labels=("model",))
        costs = GaugeMetricFamily(
            "legrad_queue_cost",
            "Cost of the queue, in forward passes at the model's own size.",
            labels=("model",),
        )
        for model in self._pool:
            for state in get_args(ModelState):
                states.add_metric((model.id, state), float(model.state == state))
            batcher = None if model.served is None else model.served.batcher
            depths.add_metric((model.id,), 0 if batcher is None else batcher.queue_depth)
            costs.add_metric((model.id,), 0.0 if batcher is None else batcher.queue_cost)
        yield from (states, depths, costs)
        yield GaugeMetricFamily(
            "legrad_picture_process_bytes",
            "Resident memory of the picture processes and their launcher, shared pages once.",
            value=picture_process_bytes(self._picture_processes()),
        )
        for name, (description, value) in self._limits.items():
            yield GaugeMetricFamily(name, description, value=value)


class _Memory(NamedTuple):
    """Memory of a process in bytes.

    Attributes:
        parent: the process id of its parent.
        resident: its resident memory.
        private: the part of it that is not mapped from files.
    """

    parent: int
    resident: int
    private: int


def picture_process_bytes(processes: Iterable[int]) -> int:
    """Return the resident bytes of picture processes and their launcher; on Linux alone, else 0.

    A process is forked by the launcher and shares its pages until it writes to them, so what the
    launcher has counts once. This takes some ten microseconds for each process; the exact share of
    each page would take milliseconds for each gigabyte.

    Args:
        processes: process ids of picture processes; ended ones count as 0.
    """
    found = [memory for pid in processes if (memory := _memory_of(pid)) is not None]
    total = 0
    for parent in {memory.parent for memory in found}:
        launcher = _memory_of(parent)
        # The parent of processes that outlive their launcher is none of this server's.
        if launcher is not None and launcher.parent == os.getpid():
            own = (each.private - launcher.private for each in found if each.parent == parent)
            total += launcher.resident + sum(max(0, each) for each in own)
    return total


def _memory_of(pid: int) -> _Memory | None:
    folder = Path(f"/proc/{pid}")
    try:
        # The fields after the name, which may hold spaces and brackets.
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        _, resident, mapped, *_ = map(int, (folder / "statm").read_text().split())
    except (OSError, ValueError):
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return _Memory(parent, page * resident, page * (resident - mapped))


def memory_limit() -> int:
    """Return the bytes this process may use: its cgroup's limit or the machine's memory."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTROL_GROUP_LIMITS:
        # Without a limit the file holds a word, or a number larger than any memory.
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
