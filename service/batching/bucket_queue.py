"""A bounded queue that hands out batches of compatible entries, fairly among buckets.

Not thread-safe: the owner holds its own lock around every call.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(frozen=True)
class BatchLimits:
    """Limits on one batch and on the queue. Costs are in the caller's own unit.

    Attributes:
        max_batch_items: most items in one batch.
        max_batch_cost: most summed cost of one batch; an item that alone exceeds it runs in a
            batch of one.
        max_queue_cost: most summed cost of the queued and reserved items.
        max_wait_seconds: how long an unfilled batch waits for more items, counted from the arrival
            of its oldest one; 0 never waits.

    Raises:
        ValueError: nothing could ever run under these limits.
    """

    max_batch_items: int
    max_batch_cost: float
    max_queue_cost: float
    max_wait_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.max_batch_items < 1:
            raise ValueError("max_batch_items must be at least 1")
        if not (self.max_batch_cost > 0 and self.max_queue_cost > 0):
            raise ValueError("max_batch_cost and max_queue_cost must be positive")
        if not (math.isfinite(self.max_wait_seconds) and self.max_wait_seconds >= 0):
            raise ValueError("max_wait_seconds must be finite and not negative")


@dataclass(slots=True, eq=False, kw_only=True)
class QueueEntry:
    """One queued item. Times are seconds on the owner's clock; tickets are unique."""

    ticket: int
    bucket: Hashable
    cost: float
    deadline: float | None
    enqueued_at: float

    def expired(self, now: float) -> bool:
        """Whether the deadline, if any, has passed."""
        return self.deadline is not None and now >= self.deadline


Entry = TypeVar("Entry", bound=QueueEntry)


class BucketQueue(Generic[Entry]):
    """First in, first out within a bucket; round-robin across buckets.

    An entry that does not fit the present batch stays first in its bucket, so it leads that
    bucket's next batch: nothing overtakes it and nothing starves.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        # Ordered dictionaries rather than deques: a cancelled entry is removed from the middle at
        # once, so that a client that submits and cancels cannot grow the queue past its bound.
        self._buckets: OrderedDict[Hashable, OrderedDict[int, Entry]] = OrderedDict()
        self._entries: dict[int, Entry] = {}
        self._cost = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def cost(self) -> float:
        """Summed cost of all queued entries."""
        return self._cost

    def append(self, entry: Entry) -> None:
        """Add an entry at the end of its bucket."""
        self._buckets.setdefault(entry.bucket, OrderedDict())[entry.ticket] = entry
        self._entries[entry.ticket] = entry
        self._cost += entry.cost

    def remove(self, ticket: int) -> Entry | None:
        """Remove one entry from any position; return ``None`` if it is not queued."""
        entry = self._entries.pop(ticket, None)
        if entry is None:
            return None
        bucket = self._buckets[entry.bucket]
        del bucket[ticket]
        if not bucket:
            del self._buckets[entry.bucket]
        # Float sums drift. An empty queue must cost exactly 0, or an item as large as the whole
        # budget would be refused because of a rounding error.
        self._cost = self._cost - entry.cost if self._entries else 0.0
        return entry

    def cost_until(self, ticket: int) -> tuple[int, float] | None:
        """Return an entry's position by arrival, from 1, and the summed cost up to it, inclusive.

        ``None`` if it is not queued. Buckets take turns, so a later entry of another bucket may
        still be computed first.
        """
        cost = 0.0
        for position, entry in enumerate(self._entries.values(), start=1):
            cost += entry.cost
            if entry.ticket == ticket:
                return position, cost
        return None

    def remove_expired(self, now: float) -> list[Entry]:
        """Remove every entry whose deadline has passed."""
        return self._remove_all_of([e for e in self._entries.values() if e.expired(now)])

    def remove_all(self) -> list[Entry]:
        """Remove all entries, oldest first."""
        return self._remove_all_of(list(self._entries.values()))

    def take_batch(
        self, now: float, *, without_waiting: bool = False, only_full: bool = False
    ) -> list[Entry]:
        """Remove the next batch that is full or has waited long enough; empty if none is due."""
        for bucket, entries in self._buckets.items():
            batch, full = self._leading_batch(entries)
            due = without_waiting or now >= self._dispatch_at(entries)
            if full or (due and not only_full):
                # Move the bucket first: removing its last entry removes the bucket.
                self._buckets.move_to_end(bucket)
                return self._remove_all_of(batch)
        return []

    def next_dispatch_at(self) -> float | None:
        """Return when the next unfilled batch is due, on the owner's clock; ``None`` if empty."""
        return min(map(self._dispatch_at, self._buckets.values()), default=None)

    def _leading_batch(self, entries: OrderedDict[int, Entry]) -> tuple[list[Entry], bool]:
        batch: list[Entry] = []
        cost = 0.0
        for entry in entries.values():
            # The first entry is taken at any cost, or it would block its bucket forever.
            if batch and cost + entry.cost > self._limits.max_batch_cost:
                return batch, True
            batch.append(entry)
            cost += entry.cost
            if len(batch) == self._limits.max_batch_items:
                return batch, True
        return batch, cost >= self._limits.max_batch_cost

    def _dispatch_at(self, entries: OrderedDict[int, Entry]) -> float:
        return min(map(self._latest_dispatch, entries.values()))

    def _latest_dispatch(self, entry: Entry) -> float:
        latest = entry.enqueued_at + self._limits.max_wait_seconds
        # An item must not miss its deadline only because its batch waited to fill.
        if entry.deadline is not None and entry.deadline <= latest:
            return entry.enqueued_at
        return latest

    def _remove_all_of(self, entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            self.remove(entry.ticket)
        return entries
