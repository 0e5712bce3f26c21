"""Ends items without a result, and reports drops and queue lengths to the observer."""

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from service.batching.errors import BatchingError, DeadlineExceededError
from service.batching.live_items import Claimed, LiveItems, Pending
from service.batching.observer import BatchObserver, DropReason, notify

Item = TypeVar("Item")
Result = TypeVar("Result")


class Endings(Generic[Item, Result]):
    """Fails claimed items. Called on any thread, never under the owner's lock."""

    def __init__(
        self,
        lock: threading.Condition,
        live_items: LiveItems[Item, Result],
        observer: BatchObserver,
        clock: Callable[[], float],
    ) -> None:
        self._lock = lock
        self._live_items = live_items
        self._observer = observer
        self._clock = clock
        self._queue_report_lock = threading.RLock()

    def fail_all(
        self,
        claimed: Claimed[Item, Result],
        error: Callable[[], BatchingError],
        reason: DropReason,
    ) -> None:
        """Fail claimed items, each with a new error from ``error``."""
        self.report_cancelled(claimed.cancelled)
        for pending in claimed.items:
            self._drop(pending, error(), reason)
        self.report_queue()

    def fail_expired(self, expired: Iterable[Pending[Item, Result]]) -> None:
        """Fail items whose deadline has passed."""
        for pending in expired:
            error = DeadlineExceededError(self._clock() - pending.enqueued_at)
            self._drop(pending, error, DropReason.DEADLINE)

    def report_cancelled(self, count: int) -> None:
        """Report items that their callers cancelled."""
        for _ in range(count):
            notify(self._observer.item_dropped, DropReason.CANCELLED)

    def report_queue(self) -> None:
        """Report the present depth and cost of the queue."""
        # One lock around reading and reporting: otherwise an older reading could be reported last,
        # and the gauge would keep showing it.
        with self._queue_report_lock:
            with self._lock:
                depth, cost = self._live_items.queue_depth, self._live_items.queue_cost
            notify(self._observer.queue_changed, depth, cost)

    def _drop(
        self, pending: Pending[Item, Result], error: BatchingError, reason: DropReason
    ) -> None:
        notify(self._observer.item_dropped, reason)
        pending.resolve(error)
