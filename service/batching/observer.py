"""What a micro-batcher reports about itself, for metrics."""

import logging
from collections.abc import Callable
from enum import Enum
from typing import ParamSpec, Protocol

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")


class DropReason(Enum):
    """Why an item ended without its own result or its own error."""

    CANCELLED = "cancelled"
    CLOSED = "closed"
    DEADLINE = "deadline"
    WORKER_DIED = "worker_died"
    WORKER_STALLED = "worker_stalled"


class BatchObserver(Protocol):
    """What a metrics exporter may want to know.

    Called on whichever thread made it happen, never under the batcher's lock. An exception it
    raises is logged and otherwise ignored.
    """

    def queue_changed(self, depth: int, cost: float) -> None:
        """The queue now holds ``depth`` items of summed ``cost``; calls never overlap."""

    def queue_waited(self, seconds: float) -> None:
        """An item left the queue to be computed after so many seconds."""

    def batch_finished(self, size: int, cost: float, seconds: float) -> None:
        """A batch of ``size`` items was computed in ``seconds``, retries included."""

    def item_dropped(self, reason: DropReason) -> None:
        """An item ended without its own result or its own error."""

    def worker_restarted(self) -> None:
        """A worker that died or hung was replaced by a new one, which is about to start."""

    def worker_stalled(self) -> None:
        """A worker hung and was given up."""


class SilentObserver:
    """The observer that ignores everything."""

    def queue_changed(self, depth: int, cost: float) -> None:
        """Ignore it."""

    def queue_waited(self, seconds: float) -> None:
        """Ignore it."""

    def batch_finished(self, size: int, cost: float, seconds: float) -> None:
        """Ignore it."""

    def item_dropped(self, reason: DropReason) -> None:
        """Ignore it."""

    def worker_restarted(self) -> None:
        """Ignore it."""

    def worker_stalled(self) -> None:
        """Ignore it."""


def notify(
    callback: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> None:
    """Call an observer; metrics that fail must not take the worker down with them."""
    try:
        callback(*args, **kwargs)
    except Exception:
        logger.exception("A batch observer failed")
