"""Events of a micro-batcher, for metrics."""

import logging
from collections.abc import Callable
from enum import Enum
from typing import ParamSpec, Protocol

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")


class DropReason(Enum):
    """Reason for which an item ended without a result or an error of its own."""

    CANCELLED = "cancelled"
    CLOSED = "closed"
    DEADLINE = "deadline"
    WORKER_DIED = "worker_died"
    WORKER_STALLED = "worker_stalled"


class BatchObserver(Protocol):
    """Receives the events of a micro-batcher.

    Called on the thread that caused the event, never under the batcher's lock. An exception that
    it raises is logged and otherwise ignored.
    """

    def queue_waited(self, seconds: float) -> None:
        """Receive the wait of an item that left the queue to be computed."""

    def batch_finished(self, worker: str, size: int, cost: float, seconds: float) -> None:
        """Receive a worker's batch: its number of items, summed cost and time, with retries."""

    def item_dropped(self, reason: DropReason) -> None:
        """Receive the end of an item without a result or an error of its own."""

    def worker_restarted(self, worker: str) -> None:
        """Receive the replacement of a dead or hung worker; the new one is about to start."""

    def worker_stalled(self, worker: str) -> None:
        """Receive the loss of a worker that hung and was abandoned."""


class SilentObserver:
    """The observer that ignores everything."""

    def queue_waited(self, seconds: float) -> None:
        """Ignore it."""

    def batch_finished(self, worker: str, size: int, cost: float, seconds: float) -> None:
        """Ignore it."""

    def item_dropped(self, reason: DropReason) -> None:
        """Ignore it."""

    def worker_restarted(self, worker: str) -> None:
        """Ignore it."""

    def worker_stalled(self, worker: str) -> None:
        """Ignore it."""


def notify(
    callback: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> None:
    """Call an observer and log its exceptions: failing metrics must not end the worker."""
    try:
        callback(*args, **kwargs)
    except Exception:
        logger.exception("A batch observer failed")
