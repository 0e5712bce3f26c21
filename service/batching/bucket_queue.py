"""A bounded queue that hands out batches of compatible entries, fairly among owners by cost.

Not thread-safe: the owner holds its own lock around every call.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
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
    """One queued item. Times are seconds on the batcher's clock; tickets are unique.

    Entries of one owner share its turns with each other, and not with those of other owners.
    """

    ticket: int
    bucket: Hashable
    cost: float
    deadline: float | None
    enqueued_at: float
    owner: Hashable = None

    def expired(self, now: float) -> bool:
        """Whether the deadline, if any, has passed."""
        return self.deadline is not None and now >= self.deadline


Entry = TypeVar("Entry", bound=QueueEntry)


@dataclass(slots=True, eq=False)
class _Flow(Generic[Entry]):
    """The queued entries of one owner.

    Attributes:
        served: cost of its entries that left the queue in batches, on the queue's virtual clock.
        waiting: cost of its entries.
        buckets: its entries by bucket, in the order of its buckets' turns.
    """

    served: float
    waiting: float = 0.0
    buckets: OrderedDict[Hashable, OrderedDict[int, Entry]] = field(default_factory=OrderedDict)


class BucketQueue(Generic[Entry]):
    """Shares batches among owners by cost; an owner's buckets take turns, first in, first out.

    Start-time fair queueing, with short queues first. Each owner has a score: the cost that it has
    received, plus the cost of its waiting entries, at most that of one batch. The owner with the
    lowest score leads the next batch; the other places go to owners with entries of the same
    bucket, in the order of their scores. A new or returning owner starts with at least the lowest
    received cost among the others, so that an absence gives no credit. A short queue waits for
    about one batch behind any number of long ones, and in the long run all owners receive the same.
    An entry that does not fit the present batch ends it and stays first in its bucket, so that
    nothing starves.

    P. Goyal, H. Vin, H. Cheng: Start-time Fair Queueing. IEEE/ACM Trans. Networking 5 (1997).
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        # Ordered dictionaries rather than deques: a cancelled entry is removed from the middle at
        # once, so that a client that submits and cancels cannot grow the queue past its bound.
        self._flows: OrderedDict[Hashable, _Flow[Entry]] = OrderedDict()
        self._buckets: dict[Hashable, OrderedDict[int, Entry]] = {}
        self._entries: dict[int, Entry] = {}
        self._cost = 0.0
        # Lowest received cost among owners with entries; higher costs of absent owners.
        self._served = 0.0
        self._ahead: dict[Hashable, float] = {}

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def cost(self) -> float:
        """Summed cost of all queued entries."""
        return self._cost

    def append(self, entry: Entry) -> None:
        """Add an entry at the end of its owner's entries of its bucket."""
        flow = self._flows.get(entry.owner)
        if flow is None:
            served = max(self._served, self._ahead.pop(entry.owner, 0.0))
            flow = self._flows[entry.owner] = _Flow(served)
        flow.waiting += entry.cost
        flow.buckets.setdefault(entry.bucket, OrderedDict())[entry.ticket] = entry
        self._buckets.setdefault(entry.bucket, OrderedDict())[entry.ticket] = entry
        self._entries[entry.ticket] = entry
        self._cost += entry.cost

    def remove(self, ticket: int) -> Entry | None:
        """Remove one entry from any position; return ``None`` if it is not queued."""
        entry = self._entries.pop(ticket, None)
        if entry is None:
            return None
        flow = self._flows[entry.owner]
        flow.waiting -= entry.cost
        for buckets in (flow.buckets, self._buckets):
            bucket = buckets[entry.bucket]
            del bucket[ticket]
            if not bucket:
                del buckets[entry.bucket]
        if not flow.buckets:
            del self._flows[entry.owner]
            self._ahead[entry.owner] = flow.served
        if self._entries:
            self._cost -= entry.cost
        else:
            # Float sums drift. An empty queue must cost exactly 0, or an item as large as the
            # whole budget would be refused because of a rounding error.
            self._cost = self._served = 0.0
            self._ahead.clear()
        return entry

    def cost_until(self, ticket: int) -> tuple[int, float] | None:
        """Return an entry's expected place, from 1, and the expected cost up to it, inclusive.

        ``None`` if it is not queued. Each other owner is expected to receive as much as this one
        before the entry leaves the queue. Buckets take turns, so a later entry of another bucket
        may still be computed first.
        """
        wanted = self._entries.get(ticket)
        if wanted is None:
            return None
        own = sum(
            entry.cost
            for bucket in self._flows[wanted.owner].buckets.values()
            for entry in bucket.values()
            if entry.ticket <= ticket
        )
        position, cost = 0, 0.0
        left = dict.fromkeys(self._flows, own)
        for entry in self._entries.values():
            if left[entry.owner] > 0 and (entry.owner != wanted.owner or entry.ticket <= ticket):
                left[entry.owner] -= entry.cost
                position += 1
                cost += entry.cost
        return position, cost

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
        seen: set[Hashable] = set()
        for flow in sorted(self._flows.values(), key=self._rank):
            for bucket in flow.buckets:
                if bucket in seen:
                    continue
                seen.add(bucket)
                batch, full = self._leading_batch(bucket)
                due = without_waiting or now >= self._dispatch_at(self._buckets[bucket])
                if full or (due and not only_full):
                    return self._serve(batch)
        return []

    def next_dispatch_at(self) -> float | None:
        """Return when the next unfilled batch is due, on the owner's clock; ``None`` if empty."""
        return min(map(self._dispatch_at, self._buckets.values()), default=None)

    def _leading_batch(self, bucket: Hashable) -> tuple[list[Entry], bool]:
        """Return the next batch of a bucket, and whether it is full."""
        # Owners of equal rank by their turns.
        owners = [
            (self._rank(flow), turn, 0.0, flow, iter(flow.buckets[bucket].values()))
            for turn, flow in enumerate(self._flows.values())
            if bucket in flow.buckets
        ]
        heapq.heapify(owners)
        batch: list[Entry] = []
        cost = 0.0
        while owners:
            _, turn, taken, flow, entries = owners[0]
            entry = next(entries, None)
            if entry is None:
                heapq.heappop(owners)
                continue
            # The first entry is taken at any cost, or it would block its bucket forever.
            if batch and cost + entry.cost > self._limits.max_batch_cost:
                return batch, True
            batch.append(entry)
            cost += entry.cost
            if len(batch) == self._limits.max_batch_items:
                return batch, True
            taken += entry.cost
            heapq.heapreplace(owners, (self._rank(flow, taken), turn, taken, flow, entries))
        return batch, cost >= self._limits.max_batch_cost

    def _rank(self, flow: _Flow[Entry], taken: float = 0.0) -> float:
        """Return the rank of an owner, lowest first, once so much of its entries is taken."""
        waiting = min(flow.waiting - taken, self._limits.max_batch_cost)
        return flow.served + taken + waiting

    def _serve(self, batch: list[Entry]) -> list[Entry]:
        """Charge a batch to its owners, give others and other buckets their turns, remove it."""
        self._served = max(self._served, min(flow.served for flow in self._flows.values()))
        for entry in batch:
            flow = self._flows[entry.owner]
            flow.served += entry.cost
            # Before the removal of the last entry, which removes the bucket or the owner.
            flow.buckets.move_to_end(entry.bucket)
            self._flows.move_to_end(entry.owner)
        self._remove_all_of(batch)
        self._ahead = {
            owner: served for owner, served in self._ahead.items() if served > self._served
        }
        return batch

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
