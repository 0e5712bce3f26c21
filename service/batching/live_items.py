"""The unfinished items of a batcher: queued ones and those being computed.

The code that removes an item from here owns it, and only the owner resolves its future. So every
item ends exactly once.
"""

import logging
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from service.batching.bucket_queue import BatchLimits, BucketQueue, QueueEntry
from service.batching.shares import Shares

logger = logging.getLogger(__name__)

# Relative tolerance: sums of floats depend on the order of addition.
_ROUNDING = 1e-9

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Submission(Generic[Result]):
    """A submitted item: its future and, once that is done, its timings.

    Attributes:
        ticket: identifies the item to its batcher.
        future: ends with the item's result or error.
        queue_seconds: from ``submit`` until the item left the queue.
        compute_seconds: from then until its outcome, retries included; 0 if never computed.
        batch_size: items in the call that produced the outcome; 0 if never computed.
    """

    ticket: int
    future: Future[Result] = field(default_factory=Future)
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    batch_size: int = 0


@dataclass(slots=True, eq=False)
class QueueReservation:
    """Reserved room in a queue, for items that are still being prepared.

    Attributes:
        owner: the owner of the items.
        cost: summed cost that is still reserved.
        admitted: whether the items belong to a request that has room in the queue already: it needs
            room for more of them, and no share.
    """

    owner: Hashable = None
    cost: float = 0.0
    admitted: bool = False

    def missing(self, cost: float) -> float:
        """Return the part of a cost that is not reserved; rounding errors count as 0."""
        missing = cost - self.cost
        return missing if missing > _ROUNDING * cost else 0.0


@dataclass(slots=True, eq=False, kw_only=True)
class Pending(QueueEntry, Generic[Item, Result]):
    """A queued or computing item with its submission."""

    item: Item
    submission: Submission[Result]
    dequeued_at: float = 0.0
    worker: str = ""

    def leave_queue(self, now: float) -> None:
        """Record the time at which the item left the queue."""
        self.dequeued_at = now
        self.submission.queue_seconds = now - self.enqueued_at

    def forget_item(self) -> None:
        """Release the item's memory once it will not be computed again.

        A kept exception keeps, through the frames in its traceback, every list that this entry was
        in. The item must not live as long as such an exception.
        """
        del self.item

    def resolve(self, outcome: Result | Exception) -> None:
        """Set the future. Runs the caller's callbacks, so it must not be called under a lock."""
        try:
            if isinstance(outcome, Exception):
                self.submission.future.set_exception(outcome)
            else:
                self.submission.future.set_result(outcome)
        except InvalidStateError:
            logger.warning("A future was already resolved by its caller; the outcome is discarded")


class Standing(NamedTuple):
    """Progress of the last of some unfinished items.

    Attributes:
        position: place in the order of arrival, from 1; 0 while it is being computed.
        seconds: estimated time until it is finished; ``None`` before the first measurement.
    """

    position: int
    seconds: float | None


class Claimed(NamedTuple, Generic[Item, Result]):
    """Items that the receiver now owns and resolves, and the number of cancelled ones."""

    items: list[Pending[Item, Result]]
    cancelled: int


class NextBatch(NamedTuple, Generic[Item, Result]):
    """The next batch; the receiver owns and resolves the ``expired`` items."""

    batch: list[Pending[Item, Result]]
    expired: list[Pending[Item, Result]]
    cancelled: int


class LiveItems(Generic[Item, Result]):
    """Keeps every unfinished item in exactly one place until it is taken.

    Not thread-safe: the owner holds its own lock around every call. No method resolves a live
    future, so none runs a caller's callback under that lock.
    """

    def __init__(self, limits: BatchLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_batch_cost = limits.max_batch_cost
        self._queue: BucketQueue[Pending[Item, Result]] = BucketQueue(limits)
        self._in_flight: dict[int, Pending[Item, Result]] = {}
        # Queued and reserved cost.
        self._shares = Shares(limits.max_queue_cost, clock)

    @property
    def queue_depth(self) -> int:
        """Number of queued items."""
        return len(self._queue)

    @property
    def queue_cost(self) -> float:
        """Summed cost of the queued items."""
        return self._queue.cost

    @property
    def in_flight_cost(self) -> float:
        """Summed cost of the items being computed."""
        return sum(pending.cost for pending in self._in_flight.values())

    def cost_until(self, tickets: Collection[int]) -> tuple[int, float] | None:
        """Return the position of the last of an owner's items, and the cost until it is done.

        The position counts from 1, and is 0 while the last items are being computed. ``None`` if
        all are finished. The queue is counted once, however many items are asked about.
        """
        last = max((ticket for ticket in tickets if ticket in self._queue), default=None)
        queued = None if last is None else self._queue.cost_until(last)
        if queued is not None:
            position, cost = queued
            return position, self.in_flight_cost + cost
        if any(ticket in self._in_flight for ticket in tickets):
            return 0, self.in_flight_cost
        return None

    def seconds_in_flight(self, now: float, workers: Iterable[str]) -> float:
        """Return for how long all of some workers have been computing; 0 if one is idle."""
        begun = dict.fromkeys(workers, now)
        for pending in self._in_flight.values():
            if pending.worker in begun:
                begun[pending.worker] = min(begun[pending.worker], pending.dequeued_at)
        return now - max(begun.values(), default=now)

    @property
    def waiting_cost(self) -> float:
        """Summed cost of the queued items and of all reservations."""
        return self._shares.total

    def excess(self, reservation: QueueReservation, cost: float) -> float:
        """Return how much has to leave the queue before a reservation may grow by a cost.

        Not positive if it may now; see :class:`Shares`.
        """
        return self._shares.excess(reservation.owner, cost, admitted=reservation.admitted)

    def refused(self, owner: Hashable) -> None:
        """Note that an owner found no room."""
        self._shares.refused(owner)

    def cost_before_end_of(self, owner: Hashable, cost: float) -> float:
        """Return the waiting cost that is computed until one more item of an owner is done.

        Args:
            owner: owners share batches fairly.
            cost: cost of the item, without the part of it that is reserved.
        """
        whole_batch = min(self._max_batch_cost, self._shares.total + cost)
        return max(whole_batch, self._shares.ahead(owner, cost))

    def reserve(self, reservation: QueueReservation, cost: float) -> None:
        """Make a reservation, or change its cost."""
        self._shares.add(reservation.owner, cost - reservation.cost)
        reservation.cost, reservation.admitted = cost, True

    def release(self, reservation: QueueReservation) -> None:
        """Free the remaining cost of a reservation."""
        self.reserve(reservation, 0.0)

    def enqueue(
        self, pending: Pending[Item, Result], reservation: QueueReservation | None = None
    ) -> None:
        """Queue an item that was admitted; it uses up its part of a reservation."""
        if reservation is not None:
            self.reserve(reservation, max(0.0, reservation.cost - pending.cost))
        self._shares.add(pending.owner, pending.cost)
        self._queue.append(pending)

    def withdraw(self, ticket: int, now: float) -> bool:
        """Remove a queued item whose caller cancelled it; return false if it is not queued."""
        pending = self._queue.remove(ticket)
        if pending is None:
            return False
        self._leave_queue(pending, now)
        # Moves a cancelled future on to "cancelled and notified", which wakes the callers of
        # concurrent.futures.wait.
        _begin(pending.submission.future)
        return True

    def next_batch(
        self, now: float, worker: str, *, without_waiting: bool = False, only_full: bool = False
    ) -> NextBatch[Item, Result]:
        """Move the next due batch into flight and remove the expired items; either may be empty.

        Args:
            now: time on the owner's clock.
            worker: name of the worker that computes the batch.
            without_waiting: whether an unfilled batch is due at once.
            only_full: whether an unfilled batch is not due at all.
        """
        expired, expired_cancelled = self.claim_expired(now)
        due = self._queue.take_batch(now, without_waiting=without_waiting, only_full=only_full)
        batch, batch_cancelled = self._claim(due, now)
        for pending in batch:
            pending.worker = worker
        self._in_flight.update((pending.ticket, pending) for pending in batch)
        return NextBatch(batch, expired, expired_cancelled + batch_cancelled)

    def next_due_at(self) -> float | None:
        """Return when the next unfilled batch is due, on the owner's clock; ``None`` if empty."""
        return self._queue.next_dispatch_at()

    def still_wanted(
        self, part: list[Pending[Item, Result]], now: float
    ) -> tuple[list[Pending[Item, Result]], list[Pending[Item, Result]]]:
        """Split a part in flight into items to compute and expired ones, now the caller's."""
        wanted: list[Pending[Item, Result]] = []
        expired: list[Pending[Item, Result]] = []
        for pending in part:
            if pending.ticket not in self._in_flight:
                continue
            if pending.expired(now):
                del self._in_flight[pending.ticket]
                expired.append(pending)
            else:
                wanted.append(pending)
        return wanted, expired

    def take_in_flight(self, pending: Pending[Item, Result]) -> bool:
        """Remove an item from flight; return false if it was removed before."""
        return self._in_flight.pop(pending.ticket, None) is not None

    def claim_expired(self, now: float) -> Claimed[Item, Result]:
        """Remove every expired item from the queue."""
        return self._claim(self._queue.remove_expired(now), now)

    def claim_of(self, worker: str) -> Claimed[Item, Result]:
        """Remove every item that one worker computes."""
        items = [each for each in self._in_flight.values() if each.worker == worker]
        for pending in items:
            del self._in_flight[pending.ticket]
        return Claimed(items, 0)

    def claim_all(self, now: float) -> Claimed[Item, Result]:
        """Remove every item, queued or in flight."""
        queued, cancelled = self._claim(self._queue.remove_all(), now)
        items = [*self._in_flight.values(), *queued]
        self._in_flight.clear()
        return Claimed(items, cancelled)

    def _claim(self, entries: Iterable[Pending[Item, Result]], now: float) -> Claimed[Item, Result]:
        items: list[Pending[Item, Result]] = []
        cancelled = 0
        for pending in entries:
            self._leave_queue(pending, now)
            if _begin(pending.submission.future):
                items.append(pending)
            else:
                cancelled += 1
        return Claimed(items, cancelled)

    def _leave_queue(self, pending: Pending[Item, Result], now: float) -> None:
        self._shares.add(pending.owner, -pending.cost)
        pending.leave_queue(now)


def _begin(future: Future[Result]) -> bool:
    """Make a future uncancellable; return false if its caller cancelled or resolved it before."""
    try:
        return future.set_running_or_notify_cancel()
    except RuntimeError:
        return False
