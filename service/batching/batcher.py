"""The micro-batcher: admits items, forms batches, and ends every item exactly once."""

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from service.batching.bucket_queue import BatchLimits
from service.batching.endings import Endings
from service.batching.errors import BatcherClosedError, ItemTooLargeError, QueueFullError
from service.batching.execution import Processor, run_in_parts
from service.batching.live_items import (
    LiveItems,
    NextBatch,
    Pending,
    QueueReservation,
    Standing,
    Submission,
)
from service.batching.observer import BatchObserver, DropReason, SilentObserver, notify
from service.batching.pacing import DEFAULT_RETRY_AFTER_SECONDS, DrainRate, RestartBackoff
from service.batching.supervisor import BatcherState, Supervisor

Item = TypeVar("Item")
Result = TypeVar("Result")

DEFAULT_STALL_SECONDS = 120.0
# Safety factor on estimated waits: items that arrive later may share the last batch, and the time
# of a batch varies.
_WAIT_MARGIN = 1.5


def _is_memory_error(error: Exception) -> bool:
    return isinstance(error, MemoryError)


class MicroBatcher(Generic[Item, Result]):
    """Gathers items while the previous batch computes, and computes them together.

    A batch holds items of one bucket only.
    """

    def __init__(
        self,
        name: str,
        processor: Processor[Item, Result],
        limits: BatchLimits,
        *,
        observer: BatchObserver | None = None,
        is_out_of_memory: Callable[[Exception], bool] = _is_memory_error,
        restart_backoff: RestartBackoff | None = None,
        stall_seconds: float = DEFAULT_STALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the batcher without starting its worker.

        Args:
            name: appears in log lines and thread names.
            processor: computes the batches.
            limits: sizes of a batch and of the queue.
            observer: receives queue, batch and worker events.
            is_out_of_memory: tells an exhausted allocator from other errors.
            restart_backoff: delays between restarts of a failing worker.
            stall_seconds: a worker whose call of the processor takes longer is replaced.
            clock: returns seconds; deadlines refer to it.
        """
        self.name = name
        self._processor = processor
        self._limits = limits
        self._observer: BatchObserver = observer or SilentObserver()
        self._is_out_of_memory = is_out_of_memory
        self._clock = clock

        self._condition = threading.Condition()
        self._live_items: LiveItems[Item, Result] = LiveItems(limits)
        self._endings = Endings(self._condition, self._live_items, self._observer, clock)
        self._tickets = itertools.count()
        self._drain_rate = DrainRate()
        self._supervisor = Supervisor(
            name,
            processor,
            self._compute_next_batch,
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
        return self._supervisor.state

    @property
    def ready(self) -> bool:
        """Whether a live, started worker takes submitted items."""
        with self._condition:
            return self._supervisor.ready

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
        """Seconds since the present batch left the queue; 0 between batches."""
        with self._condition:
            return self._live_items.seconds_in_flight(self._clock())

    def start(self) -> None:
        """Start the worker and return at once; ``wait_until_ready`` waits for it.

        Raises:
            RuntimeError: on a second call, or after ``drain``.
        """
        with self._condition:
            if self.state is not BatcherState.CREATED:
                raise RuntimeError(f"Cannot start a batcher that is {self.state.value}.")
            self._supervisor.state = BatcherState.STARTING
        self._supervisor.launch()

    def expect(self, cost: float, seconds: float) -> None:
        """Seed the drain rate with a measurement made elsewhere, such as the model's warm-up.

        Without it the drain rate is unknown until the first batch has been computed, and then
        rests on that batch alone.
        """
        with self._condition:
            self._drain_rate.record(cost, seconds)

    def wait_until_ready(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for a ready worker; return whether there is one.

        Returns false early once no worker can become ready.
        """
        hopeless = (BatcherState.DRAINING, BatcherState.STOPPED, BatcherState.FAILED)
        with self._condition:
            self._condition.wait_for(
                lambda: self._supervisor.ready or self.state in hopeless, timeout
            )
            return self._supervisor.ready

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
            owner: owners share batches fairly by cost.

        Raises:
            WorkerUnavailableError: no worker is ready.
            BatcherClosedError: the batcher is draining or stopped.
            QueueFullError: the queue has no room, or leaves no time before the deadline.
            ItemTooLargeError: the item costs more than the whole queue may hold.
            ValueError: the cost is not positive and finite.
        """
        ticket = next(self._tickets)
        submission: Submission[Result] = Submission(ticket)
        # The callback holds the ticket, not the entry: a caller that keeps the future must not
        # keep the item's memory alive.
        submission.future.add_done_callback(partial(self._withdraw, ticket))
        with self._admission(cost, deadline, reservation):
            if reservation is not None:
                reservation.take(cost)
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
                )
            )
            self._condition.notify_all()
        self._endings.report_queue()
        return submission

    def check(self, cost: float, deadline: float | None = None) -> None:
        """Raise what ``submit`` would raise now, before work is spent on preparing the item.

        Reserves nothing: the room may be gone by the time the item is submitted.
        """
        with self._admission(cost, deadline):
            pass

    def reserve(
        self,
        cost: float,
        deadline: float | None = None,
        reservation: QueueReservation | None = None,
    ) -> QueueReservation:
        """Reserve room for items that are still being prepared, or change a reservation.

        Reserving before the preparation begins avoids preparing items that the queue would then
        refuse. ``release`` frees the unused rest.

        Args:
            cost: total cost of the items, in the unit of the limits.
            deadline: instant on the batcher's clock by which the items have to begin.
            reservation: the reservation to change; on an error it keeps its earlier cost.

        Raises:
            BatchingError: as ``submit``.
        """
        with self._admission(cost, deadline, reservation):
            changed = reservation or QueueReservation()
            self._live_items.reserve(changed, cost)
        return changed

    def release(self, reservation: QueueReservation) -> None:
        """Free the part of a reservation that no item has used."""
        with self._condition:
            self._live_items.release(reservation)

    def standing(self, ticket: int) -> Standing | None:
        """Position and estimated wait of a submitted item; ``None`` once it is finished."""
        with self._condition:
            found = self._live_items.cost_until(ticket)
            if found is None:
                return None
            position, cost = found
            seconds = self._drain_rate.seconds_for(cost)
            if seconds is not None:
                seconds = max(0.0, seconds - self._live_items.seconds_in_flight(self._clock()))
            return Standing(position, seconds)

    def drain(self, timeout: float) -> bool:
        """Refuse new items, finish the queued ones, stop the worker; wait ``timeout`` seconds.

        Returns:
            Whether the worker has stopped, or hung and was abandoned. If false, every unfinished
            item has failed with ``BatcherClosedError`` and the worker stops after its present
            call; another ``drain`` waits for that.

        Raises:
            RuntimeError: on the worker's own thread, which cannot wait for itself.
        """
        with self._condition:
            if self._supervisor.is_current():
                raise RuntimeError("The worker cannot wait for itself to stop.")
            self._supervisor.begin_draining()
            stopped = self._condition.wait_for(lambda: self.state is BatcherState.STOPPED, timeout)
            claimed = self._live_items.claim_all(self._clock())
        self._endings.fail_all(
            claimed, lambda: BatcherClosedError("The batcher was closed."), DropReason.CLOSED
        )
        if stopped:
            self._supervisor.join()
        return stopped

    # Under the lock: the caller of each of these holds self._condition.

    def _seconds_until_room(self, cost: float) -> float:
        ahead = self._live_items.in_flight_cost + self._live_items.excess(cost)
        seconds = self._drain_rate.seconds_for(ahead)
        return DEFAULT_RETRY_AFTER_SECONDS if seconds is None else seconds

    def _require_time(
        self, cost: float, deadline: float | None, reservation: QueueReservation
    ) -> None:
        """Refuse an item that is predicted to miss its deadline and would delay those behind it."""
        live = self._live_items
        ahead = live.in_flight_cost + live.queue_cost + live.reserved_cost - reservation.cost
        # With nothing ahead an item is always tried: an outdated rate must not refuse forever.
        seconds = self._drain_rate.seconds_for(ahead + cost) if ahead else None
        if deadline is None or seconds is None:
            return
        late = self._clock() + _WAIT_MARGIN * seconds - deadline
        if late > 0:
            raise QueueFullError(late, "What waits leaves no time for the item by its deadline")

    # On the worker's thread, without the lock.

    def _compute_next_batch(self) -> bool:
        """Wait for a batch and compute it; false once drained, or if this worker was abandoned.

        A function of its own, so that its return releases the batch: an idle worker must not keep
        the last images in memory.
        """
        batch, expired, cancelled = self._next_batch()
        self._endings.report_queue()
        self._endings.report_cancelled(cancelled)
        self._endings.fail_expired(expired)
        if batch:
            self._compute(batch)
        return bool(batch or expired or cancelled)

    def _next_batch(self) -> NextBatch[Item, Result]:
        with self._condition:
            while self._supervisor.is_current():
                now = self._clock()
                draining = self.state is BatcherState.DRAINING
                following = self._live_items.next_batch(now, without_waiting=draining)
                if any(following) or draining:
                    return following
                due_at = self._live_items.next_due_at()
                self._condition.wait(None if due_at is None else due_at - now)
            return NextBatch([], [], 0)

    def _compute(self, batch: list[Pending[Item, Result]]) -> None:
        for pending in batch:
            notify(self._observer.queue_waited, pending.submission.queue_seconds)
        size, cost = 0, 0.0
        started_at = self._clock()
        for part, outcomes in run_in_parts(
            self._process,
            batch,
            still_wanted=self._still_wanted,
            is_out_of_memory=self._is_out_of_memory,
        ):
            size += len(part)
            cost += sum(pending.cost for pending in part)
            self._finish(part, outcomes)
        for pending in batch:
            pending.forget_item()
        if not size:
            return
        seconds = self._clock() - started_at
        with self._condition:
            if not self._supervisor.is_current():
                return
            self._drain_rate.record(cost, seconds)
            self._supervisor.succeeded()
        notify(self._observer.batch_finished, size, cost, seconds)

    def _process(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        with self._supervisor.watching():
            # As a list: results that are computed lazily, while they are read, are watched too.
            return list(self._processor.process(items))

    def _still_wanted(self, part: list[Pending[Item, Result]]) -> list[Pending[Item, Result]]:
        with self._condition:
            wanted, expired = self._live_items.still_wanted(part, self._clock())
        self._endings.fail_expired(expired)
        return wanted

    def _finish(
        self, part: list[Pending[Item, Result]], outcomes: list[Result | Exception]
    ) -> None:
        now = self._clock()
        for pending, outcome in zip(part, outcomes, strict=True):
            with self._condition:
                owned = self._live_items.take_in_flight(pending)
            if owned:
                pending.submission.compute_seconds = now - pending.dequeued_at
                pending.submission.batch_size = len(part)
                pending.resolve(outcome)

    # On any thread, without the lock.

    @contextlib.contextmanager
    def _admission(
        self, cost: float, deadline: float | None, reservation: QueueReservation | None = None
    ) -> Iterator[None]:
        """Hold the lock over the block if an item of this cost can be queued; else refuse it."""
        if not (math.isfinite(cost) and cost > 0):
            raise ValueError("cost must be positive and finite")
        if cost > self._limits.max_queue_cost:
            raise ItemTooLargeError(cost, self._limits.max_queue_cost)
        held = reservation or QueueReservation()
        expired: list[Pending[Item, Result]] = []
        cancelled = 0
        try:
            with self._condition:
                self._supervisor.require_ready()
                if missing := held.missing(cost):
                    if self._live_items.excess(missing) > 0:
                        expired, cancelled = self._live_items.claim_expired(self._clock())
                    if self._live_items.excess(missing) > 0:
                        raise QueueFullError(self._seconds_until_room(missing))
                    self._require_time(cost, deadline, held)
                yield
        finally:
            if cancelled or expired:
                self._endings.report_cancelled(cancelled)
                self._endings.fail_expired(expired)
                self._endings.report_queue()

    def _withdraw(self, ticket: int, _future: Future[Result]) -> None:
        with self._condition:
            withdrawn = self._live_items.withdraw(ticket, self._clock())
        if withdrawn:
            self._endings.report_cancelled(1)
            self._endings.report_queue()
