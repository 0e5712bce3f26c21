"""The micro-batcher: admits items, forms batches, and ends every item exactly once."""

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from service.batching.bucket_queue import BatchLimits
from service.batching.endings import Endings
from service.batching.errors import BatcherClosedError, ItemTooLargeError, QueueFullError
from service.batching.execution import Processor
from service.batching.live_items import (
    LiveItems,
    Pending,
    QueueReservation,
    Standing,
    Submission,
)
from service.batching.observer import BatchObserver, DropReason, SilentObserver
from service.batching.pacing import DEFAULT_RETRY_AFTER_SECONDS, DrainRate, RestartBackoff
from service.batching.pipeline import Failures
from service.batching.supervisor import BatcherState
from service.batching.worker_loop import WorkerLoop
from service.batching.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")

DEFAULT_STALL_SECONDS = 120.0
# Safety factor on estimated waits: items that arrive later may share the last batch, and the time
# of a batch varies.
_WAIT_MARGIN = 1.5


def _is_memory_error(error: Exception) -> bool:
    return isinstance(error, MemoryError)


def _never(_error: Exception) -> bool:
    return False


class MicroBatcher(Generic[Item, Result]):
    """Gathers items while the previous batch computes, and computes them together.

    A batch holds items of one bucket only.
    """

    def __init__(
        self,
        name: str,
        processors: Mapping[str, Processor[Item, Result]],
        limits: BatchLimits,
        *,
        observer: BatchObserver | None = None,
        is_out_of_memory: Callable[[Exception], bool] = _is_memory_error,
        is_fatal: Callable[[Exception], bool] = _never,
        restart_backoff: RestartBackoff | None = None,
        stall_seconds: float = DEFAULT_STALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the batcher without starting its worker.

        Args:
            name: appears in log lines and thread names.
            processors: compute the batches, each with a worker of its own, by the worker's name,
                such as that of its device. They are interchangeable.
            limits: sizes of a batch and of the queue.
            observer: receives the events of items, batches and workers.
            is_out_of_memory: tells an exhausted allocator from other errors.
            is_fatal: tells errors after which a worker cannot compute; it is then replaced.
            restart_backoff: delays between restarts of a failing worker.
            stall_seconds: a worker whose call of the processor takes longer is replaced.
            clock: returns seconds; deadlines refer to it.
        """
        self.name = name
        self._limits = limits
        self._observer: BatchObserver = observer or SilentObserver()
        self._clock = clock

        self._condition = threading.Condition()
        self._live_items: LiveItems[Item, Result] = LiveItems(limits, clock)
        self._endings: Endings[Item, Result] = Endings(self._observer, clock)
        self._tickets = itertools.count()
        self._drain_rate = DrainRate()
        loop = WorkerLoop(
            self._condition,
            self._live_items,
            self._endings,
            self._drain_rate,
            self._observer,
            Failures(is_out_of_memory, is_fatal),
            clock,
        )
        self._workers: Workers[Item, Result] = Workers(
            name,
            processors,
            loop.begin,
            lock=self._condition,
            live_items=self._live_items,
            endings=self._endings,
            observer=self._observer,
            restart_backoff=restart_backoff or RestartBackoff(),
            stall_seconds=stall_seconds,
            clock=clock,
        )

    @property
    def state(self) -> BatcherState:
        """The present state."""
        return self._workers.state

    @property
    def worker_states(self) -> dict[str, BatcherState]:
        """The present state of each worker, by its name."""
        with self._condition:
            return self._workers.states

    @property
    def ready(self) -> bool:
        """Whether a live, started worker takes submitted items."""
        with self._condition:
            return self._workers.ready

    @property
    def queue_depth(self) -> int:
        """Number of queued items, without those being computed."""
        with self._condition:
            return self._live_items.queue_depth

    @property
    def queue_cost(self) -> float:
        """Summed cost of the queued items, without those being computed."""
        with self._condition:
            return self._live_items.queue_cost

    @property
    def seconds_in_flight(self) -> float:
        """Seconds for which every ready worker has been computing; 0 if one of them is idle."""
        with self._condition:
            return self._seconds_in_flight()

    def start(self) -> None:
        """Start the workers and return at once; ``wait_until_ready`` waits for them.

        Raises:
            RuntimeError: on a second call, or after ``drain``.
        """
        with self._condition:
            if self.state is not BatcherState.CREATED:
                raise RuntimeError(f"Cannot start a batcher that is {self.state.value}.")
            self._workers.begin_starting()
        self._workers.launch()

    def expect(self, cost: float, seconds: float) -> None:
        """Seed the drain rate with a measurement made elsewhere, such as the model's warm-up.

        Without it the drain rate is unknown until the first batch has been computed, and then
        rests on that batch alone.
        """
        with self._condition:
            self._drain_rate.record(cost, seconds)

    def wait_until_ready(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for all workers; return whether one is ready.

        Does not wait for workers that cannot become ready.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._workers.settled, timeout)
            return self._workers.ready

    def submit(
        self,
        item: Item,
        *,
        bucket: Hashable,
        cost: float,
        deadline: float | None = None,
        reservation: QueueReservation | None = None,
        owner: Hashable = None,
    ) -> Submission[Result]:
        """Queue an item and return at once.

        The future may end with ``DeadlineExceededError``, ``BatcherClosedError``,
        ``WorkerDiedError``, ``WorkerStalledError``, ``ResultCountError``, ``ItemOutOfMemoryError``
        or the processor's own exception for the item. Cancelling the future removes the item from
        the queue.

        Args:
            item: passed to the processor.
            bucket: items of equal buckets may be computed together.
            cost: positive, in the unit of the limits.
            deadline: instant on the batcher's clock. An item whose computation has not begun by
                then is dropped; one that is predicted to begin later is refused.
            reservation: covers the item; the checks of room and time then pass.
            owner: owners share batches and the room of the queue fairly by cost.

        Raises:
            WorkerUnavailableError: no worker is ready.
            BatcherClosedError: the batcher is draining or stopped.
            QueueFullError: the queue has no room for more of the owner, or leaves no time before
                the deadline.
            ItemTooLargeError: the item costs more than the whole queue may hold.
            ValueError: the cost is not positive and finite.
        """
        ticket = next(self._tickets)
        submission: Submission[Result] = Submission(ticket)
        # The callback holds the ticket, not the entry: a caller that keeps the future must not
        # keep the item's memory alive.
        submission.future.add_done_callback(partial(self._withdraw, ticket))
        held = reservation or QueueReservation(owner)
        with self._admission(cost, deadline, held):
            self._live_items.enqueue(
                Pending(
                    ticket=ticket,
                    bucket=bucket,
                    cost=cost,
                    deadline=deadline,
                    enqueued_at=self._clock(),
                    owner=owner,
                    item=item,
                    submission=submission,
                ),
                held,
            )
            self._condition.notify_all()
        return submission

    def check_size(self, cost: float) -> None:
        """Refuse an item, or items together, that even an empty queue would have no room for.

        Raises:
            ItemTooLargeError: they cost more than the whole queue may hold.
        """
        if cost > self._limits.max_queue_cost:
            raise ItemTooLargeError(cost, self._limits.max_queue_cost)

    def check(self, cost: float, deadline: float | None = None, owner: Hashable = None) -> None:
        """Raise what ``submit`` would raise now, before work is spent on preparing the item.

        Reserves nothing: the room may be gone by the time the item is submitted.
        """
        with self._admission(cost, deadline, QueueReservation(owner)):
            pass

    def reserve(
        self,
        cost: float,
        deadline: float | None = None,
        reservation: QueueReservation | None = None,
        owner: Hashable = None,
        admitted: bool = False,
    ) -> QueueReservation:
        """Reserve room for items that are still being prepared, or change a reservation.

        Reserving before the preparation begins avoids preparing items that the queue would then
        refuse. ``release`` frees the unused rest.

        Args:
            cost: total cost of the items, in the unit of the limits.
            deadline: instant on the batcher's clock by which the items have to begin.
            reservation: the reservation to change; on an error it keeps its earlier cost.
            owner: the owner of a new reservation.
            admitted: whether a new reservation belongs to a request that has another one: it needs
                room for more, and no share.

        Raises:
            BatchingError: as ``submit``.
        """
        changed = reservation or QueueReservation(owner, admitted=admitted)
        with self._admission(cost, deadline, changed):
            self._live_items.reserve(changed, cost)
        return changed

    def release(self, reservation: QueueReservation) -> None:
        """Free the part of a reservation that no item has used."""
        with self._condition:
            self._live_items.release(reservation)

    def standing(self, tickets: Collection[int]) -> Standing | None:
        """Position and estimated wait of an owner's last item; ``None`` once all are finished."""
        with self._condition:
            found = self._live_items.cost_until(tickets)
            if found is None:
                return None
            position, cost = found
            seconds = self._seconds_for(cost)
            if seconds is not None:
                seconds = max(0.0, seconds - self._seconds_in_flight())
            return Standing(position, seconds)

    def drain(self, timeout: float) -> bool:
        """Refuse new items, finish the queued ones, stop the workers; wait ``timeout`` seconds.

        Returns:
            Whether every worker has stopped, or hung and was abandoned. If false, every unfinished
            item has failed with ``BatcherClosedError`` and the workers stop after their present
            calls; another ``drain`` waits for that.

        Raises:
            RuntimeError: on a worker's own thread, which cannot wait for itself.
        """
        with self._condition:
            if self._workers.is_worker():
                raise RuntimeError("The worker cannot wait for itself to stop.")
            self._workers.begin_draining()
            stopped = self._condition.wait_for(lambda: self.state is BatcherState.STOPPED, timeout)
            claimed = self._live_items.claim_all(self._clock())
        self._endings.fail_all(
            claimed, lambda: BatcherClosedError("The batcher was closed."), DropReason.CLOSED
        )
        if stopped:
            self._workers.join()
        return stopped

    # Under the lock: the caller of each of these holds self._condition.

    def _seconds_in_flight(self) -> float:
        return self._live_items.seconds_in_flight(self._clock(), self._workers.ready_names)

    def _seconds_for(self, cost: float) -> float | None:
        """Estimate the time in which all ready workers together compute a cost."""
        seconds = self._drain_rate.seconds_for(cost)
        return None if seconds is None else seconds / self._workers.ready_count

    def _seconds_until_room(self, reservation: QueueReservation, cost: float) -> float:
        ahead = self._live_items.in_flight_cost + self._live_items.excess(reservation, cost)
        seconds = self._seconds_for(ahead)
        return DEFAULT_RETRY_AFTER_SECONDS if seconds is None else seconds

    def _require_time(
        self, cost: float, deadline: float | None, reservation: QueueReservation
    ) -> None:
        """Refuse an item that is predicted to miss its deadline and would delay those behind it."""
        live, missing = self._live_items, cost - reservation.cost
        in_flight = live.in_flight_cost
        # With nothing ahead an item is always tried: an outdated rate must not refuse forever.
        if deadline is None or not in_flight + live.waiting_cost - reservation.cost:
            return
        most = self._seconds_late(in_flight + live.waiting_cost + missing, deadline)
        if most <= 0:
            return
        # Only now, because it looks at every owner.
        fair = live.cost_before_end_of(reservation.owner, missing)
        late = self._seconds_late(in_flight + fair, deadline)
        if late > 0:
            raise QueueFullError(late, "What waits leaves no time for the item by its deadline")

    def _seconds_late(self, cost: float, deadline: float) -> float:
        """Estimate by how much a deadline is missed after a cost; not positive if it is met."""
        seconds = self._seconds_for(cost) or 0.0
        return self._clock() + _WAIT_MARGIN * seconds - deadline

    # On any thread, without the lock.

    @contextlib.contextmanager
    def _admission(
        self, cost: float, deadline: float | None, reservation: QueueReservation
    ) -> Iterator[None]:
        """Hold the lock over the block if an item of this cost can be queued; else refuse it."""
        if not (math.isfinite(cost) and cost > 0):
            raise ValueError("cost must be positive and finite")
        self.check_size(cost)
        live = self._live_items
        expired: list[Pending[Item, Result]] = []
        cancelled = 0
        try:
            with self._condition:
                self._workers.require_ready()
                if missing := reservation.missing(cost):
                    if live.excess(reservation, missing) > 0:
                        expired, cancelled = live.claim_expired(self._clock())
                    if live.excess(reservation, missing) > 0:
                        live.refused(reservation.owner)
                        raise QueueFullError(self._seconds_until_room(reservation, missing))
                    self._require_time(cost, deadline, reservation)
                yield
        finally:
            self._endings.report_cancelled(cancelled)
            self._endings.fail_expired(expired)

    def _withdraw(self, ticket: int, future: Future[Result]) -> None:
        if not future.cancelled():
            return
        with self._condition:
            withdrawn = self._live_items.withdraw(ticket, self._clock())
        if withdrawn:
            self._endings.report_cancelled(1)
