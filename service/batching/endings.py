"""Ends items without a result, and reports drops to the observer."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from service.batching.errors import BatchingError, DeadlineExceededError
from service.batching.live_items import Claimed, Pending
from service.batching.observer import BatchObserver, DropReason, notify

Item = TypeVar("Item")
Result = TypeVar("Result")


class Endings(Generic[Item, Result]):
    """Fails claimed items. Called on any thread, never under the owner's lock."""

    def __init__(
        self,
        observer: BatchObserver,
        clock: Callable[[], float],
    ) -> None:
        self._observer = observer
        self._clock = clock

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

    def fail_expired(self, expired: Iterable[Pending[Item, Result]]) -> None:
        """Fail items whose deadline has passed."""
        for pending in expired:
            error = DeadlineExceededError(self._clock() - pending.enqueued_at)
            self._drop(pending, error, DropReason.DEADLINE)

    def report_cancelled(self, count: int) -> None:
        """Report items that their callers cancelled."""
        for _ in range(count):
            notify(self._observer.item_dropped, DropReason.CANCELLED)

    def _drop(
        self, pending: Pending[Item, Result], error: BatchingError, reason: DropReason
    ) -> None:
        notify(self._observer.item_dropped, reason)
        pending.resolve(error)
