"""The items a batcher still owes an answer: queued ones and those being computed.

An item belongs to whoever takes it out of here, and only its owner resolves its future. That is
what makes every item end exactly once.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from service.batching.bucket_queue import BatchLimits, BucketQueue, QueueEntry

logger = logging.getLogger(__name__)

# Sums of costs differ by so much with the order in which they are added.
_ROUNDING = 1e-9

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Submission(Generic[Result]):
    """A submitted item: its future and, once that is done, how it went.

    ``ticket`` names the item to its batcher. ``queue_seconds`` is the time from ``submit`` until
    the item left the queue, ``compute_seconds`` from then until its outcome, retries included, and
    ``batch_size`` the number of items in the call that made the outcome. The last two stay 0 for an
    item never computed.
    """

    ticket: int
    future: Future[Result] = field(default_factory=Future)
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    batch_size: int = 0


@dataclass(slots=True, eq=False)
class QueueReservation:
    """Room in a queue, reserved for items that do not exist yet; see the batcher.

    Attributes:
        cost: summed cost that is still reserved.
    """

    cost: float = 0.0

    def missing(self, cost: float) -> float:
        """Return the part of a cost that is not reserved; rounding errors count as 0."""
        missing = cost - self.cost
        return missing if missing > _ROUNDING * cost else 0.0

    def take(self, cost: float) -> None:
        """Use up the share of an item that is queued now."""
        self.cost = max(0.0, self.cost - cost)


@dataclass(slots=True, eq=False, kw_only=True)
class Pending(QueueEntry, Generic[Item, Result]):
    """A queued or computing item with the submission that answers it."""

    item: Item
    submission: Submission[Result]
    dequeued_at: float = 0.0

    def leave_queue(self, now: float) -> None:
        """Note when the item left the queue."""
        self.dequeued_at = now
        self.submission.queue_seconds = now - self.enqueued_at

    def forget_item(self) -> None:
        """Let go of the item once nobody will compute it any more.

        An exception reaches, through the callers of the frames in its traceback, every list that
        this entry was in; the item must not live for as long as somebody keeps that exception.
        """
        del self.item

    def resolve(self, outcome: Result | Exception) -> None:
        """End the item. Runs its holder's callbacks, so never under a lock."""
        try:
            if isinstance(outcome, Exception):
                self.submission.future.set_exception(outcome)
            else:
                self.submission.future.set_result(outcome)
        except InvalidStateError:
            logger.warning("A future was resolved by its holder; the outcome is discarded")


class Standing(NamedTuple):
    """Where an unfinished item stands.

    ``position`` counts from 1 for the item that has waited longest, and is 0 for an item that is
    being computed. ``seconds`` estimates when it will be finished; ``None`` before anything was
    measured.
    """

    position: int
    seconds: float | None


class Claimed(NamedTuple, Generic[Item, Result]):
    """Items taken for the caller to resolve, and how many were found cancelled instead."""

    items: list[Pending[Item, Result]]
    cancelled: int


class NextBatch(NamedTuple, Generic[Item, Result]):
    """What the worker does next; ``expired`` are the caller's to resolve."""

    batch: list[Pending[Item, Result]]
    expired: list[Pending[Item, Result]]
    cancelled: int


class LiveItems(Generic[Item, Result]):
    """Keeps every unfinished item in exactly one place until somebody takes it.

    Not thread-safe: the owner holds its own lock around every call. No call resolves a live
    future, so none of them runs a caller's callback under that lock.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._max_queue_cost = limits.max_queue_cost
        self._queue: BucketQueue[Pending[Item, Result]] = BucketQueue(limits)
        self._in_flight: dict[int, Pending[Item, Result]] = {}
        self._reservations: set[QueueReservation] = set()

    @property
    def queue_depth(self) -> int:
        """Items queued."""
        return len(self._queue)

    @property
    def queue_cost(self) -> float:
        """Summed cost of the items queued."""
        return self._queue.cost

    @property
    def in_flight_cost(self) -> float:
        """Summed cost of the items being computed."""
        return sum(pending.cost for pending in self._in_flight.values())

    def cost_until(self, ticket: int) -> tuple[int, float] | None:
        """An unfinished item's position and what is computed until it is done, itself included."""
        if ticket in self._in_flight:
            return 0, self.in_flight_cost
        queued = self._queue.cost_until(ticket)
        if queued is None:
            return None
        position, cost = queued
        return position, self.in_flight_cost + cost

    def seconds_in_flight(self, now: float) -> float:
        """For how long the items in flight have been computed; 0 if there are none."""
        begun = (pending.dequeued_at for pending in self._in_flight.values())
        return now - min(begun, default=now)

    @property
    def reserved_cost(self) -> float:
        """Summed cost of all reservations."""
        return sum(reservation.cost for reservation in self._reservations)

    def excess(self, cost: float) -> float:
        """By how much one more item of this cost would overfill the queue."""
        return self._queue.cost + self.reserved_cost + cost - self._max_queue_cost

    def reserve(self, reservation: QueueReservation, cost: float) -> None:
        """Count a reservation of this cost, new or changed."""
        reservation.cost = cost
        self._reservations.add(reservation)

    def release(self, reservation: QueueReservation) -> None:
        """Stop counting a reservation."""
        self._reservations.discard(reservation)

    def enqueue(self, pending: Pending[Item, Result]) -> None:
        """Queue an item that fits."""
        self._queue.append(pending)

    def withdraw(self, ticket: int, now: float) -> bool:
        """Take out a queued item whose holder ended its future; false if it is not queued."""
        pending = self._queue.remove(ticket)
        if pending is None:
            return False
        pending.leave_queue(now)
        # Moves a cancelled future on to "cancelled and notified", which is what wakes those who
        # wait for it with concurrent.futures.wait.
        _begin(pending.submission.future)
        return True

    def next_batch(self, now: float, *, without_waiting: bool) -> NextBatch[Item, Result]:
        """Move the next due batch in flight and take out the expired items; may be empty."""
        expired, expired_cancelled = self.claim_expired(now)
        due = self._queue.take_batch(now, without_waiting=without_waiting)
        batch, batch_cancelled = self._claim(due, now)
        self._in_flight.update((pending.ticket, pending) for pending in batch)
        return NextBatch(batch, expired, expired_cancelled + batch_cancelled)

    def next_due_at(self) -> float | None:
        """When the next unfilled batch falls due, on the owner's clock; ``None`` if empty."""
        return self._queue.next_dispatch_at()

    def still_wanted(
        self, part: list[Pending[Item, Result]], now: float
    ) -> tuple[list[Pending[Item, Result]], list[Pending[Item, Result]]]:
        """Split a part in flight into items to compute and expired ones, taken for the caller."""
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
        """Take an item out of flight; false if somebody else already has."""
        return self._in_flight.pop(pending.ticket, None) is not None

    def claim_expired(self, now: float) -> Claimed[Item, Result]:
        """Take every expired item out of the queue."""
        return self._claim(self._queue.remove_expired(now), now)

    def claim_all(self, now: float) -> Claimed[Item, Result]:
        """Take everything, queued or in flight."""
        queued, cancelled = self._claim(self._queue.remove_all(), now)
        items = [*self._in_flight.values(), *queued]
        self._in_flight.clear()
        return Claimed(items, cancelled)

    def _claim(self, entries: Iterable[Pending[Item, Result]], now: float) -> Claimed[Item, Result]:
        items: list[Pending[Item, Result]] = []
        cancelled = 0
        for pending in entries:
            pending.leave_queue(now)
            if _begin(pending.submission.future):
                items.append(pending)
            else:
                cancelled += 1
        return Claimed(items, cancelled)


def _begin(future: Future[Result]) -> bool:
    """Make a future uncancellable; false if its holder cancelled or even resolved it before."""
    try:
        return future.set_running_or_notify_cancel()
    except RuntimeError:
        return False
