"""Gauges that are read at each scrape: readiness, states and queues of models, and limits."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

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
        request_timeout_seconds: float,
        max_queue_cost: float,
    ) -> None:
        self._pool = pool
        self._readiness = readiness
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
                "Memory that the process may take, of its container or of the machine.",
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
        for name, (description, value) in self._limits.items():
            yield GaugeMetricFamily(name, description, value=value)


def memory_limit() -> int:
    """Return the bytes this process may use: its cgroup's limit or the machine's memory."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTROL_GROUP_LIMITS:
        # Without a limit the file holds a word, or a number larger than any memory.
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
