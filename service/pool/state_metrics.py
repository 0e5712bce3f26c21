"""How the server stands at the moment it is scraped: readiness, models, and the limits it has."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.pool.model_pool import ModelPool
from service.pool.readiness import Readiness
from service.schemas.answers import ModelState
from service.settings import Settings

_CONTROL_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class ServerState(Collector):
    """Gauges that are read, not set, so that they cannot say what was true before.

    The limits are there for alerts: a rule that knows them needs no number of its own.
    """

    def __init__(self, pool: ModelPool, readiness: Readiness, settings: Settings) -> None:
        self._pool = pool
        self._readiness = readiness
        self._limits = {
            "legrad_request_timeout_seconds": (
                "Longest deadline of a request.",
                settings.request_timeout_seconds,
            ),
            "legrad_queue_cost_limit": (
                "Most work that may wait for one model.",
                settings.max_queue_cost,
            ),
            "legrad_memory_limit_bytes": (
                "Memory that the process may take, of its container or of the machine.",
                memory_limit(),
            ),
        }

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All of them. To be called on the event loop, where the models change."""
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
        for model in self._pool:
            for state in get_args(ModelState):
                states.add_metric((model.id, state), float(model.state == state))
        yield states
        for name, (description, value) in self._limits.items():
            yield GaugeMetricFamily(name, description, value=value)


def memory_limit() -> int:
    """Bytes that this process may take: its control group's limit, or the machine's memory."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTROL_GROUP_LIMITS:
        # Without a limit there is a word, or a number beyond any memory.
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
