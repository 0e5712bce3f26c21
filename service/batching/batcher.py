"""The batcher itself: admission, the worker's life, and the end of every item."""

import contextlib
import itertools
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

from service.batching.bucket_queue import BatchLimits
from service.batching.errors import (
    BatcherClosedError,
    BatchingError,
    DeadlineExceededError,
    ItemTooLargeError,
    QueueFullError,
    WorkerDiedError,
    WorkerUnavailableError,
)
from service.batching.execution import Processor, forget_locals, run_in_parts
from service.batching.live_items import LiveItems, NextBatch, Pending, Standing, Submission
from service.batching.observer import BatchObserver, DropReason, SilentObserver, notify
from service.batching.pacing import DrainRate, RestartBackoff

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

DEFAULT_RETRY_AFTER_SECONDS = 1.0
# Later items may share the last batch, and no two batches take the same time.
_WAIT_MARGIN = 1.5


class BatcherState(Enum):
    """Where a batcher stands; items are accepted in ``READY`` only."""

    CREATED = "created"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"
    """No thread could be created for the worker, and none will: only a new process helps."""


def _is_memory_error(error: Exception) -> bool:
    return isinstance(error, MemoryError)


class MicroBatcher(Generic[Item, Result]):
    """Gathers items while the previous batch computes, and computes them together.

    A batch holds items of one bucket only. ``is_out_of_memory`` tells an exhausted allocator from
    other errors; ``clock`` returns seconds and is the clock that deadlines refer to.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._processor = processor
        self._limits = limits
        self._observer: BatchObserver = observer or SilentObserver()
        self._is_out_of_memory = is_out_of_memory
        self._restart_backoff = restart_backoff or RestartBackoff()
        self._clock = clock

        self._condition = threading.Condition()
        self._state = BatcherState.CREATED
        self._live_items: LiveItems[Item, Result] = LiveItems(limits)
        self._tickets = itertools.count()
        self._drain_rate = DrainRate()
        self._worker: threading.Thread | None = None
        self._consecutive_failures = 0
        self._last_failure: BaseException | None = None
        self._queue_report_lock = threading.RLock()

    @property
    def state(self) -> BatcherState:
        """Where the batcher stands."""
        return self._state

    @property
    def ready(self) -> bool:
        """Whether ``submit`` is answered by a live, started worker."""
        with self._condition:
            return self._ready()

    @property
    def queue_depth(self) -> int:
        """Items waiting, without those being computed."""
        with self._condition:
            return self._live_items.queue_depth

    @property
    def queue_cost(self) -> float:
        """Summed cost of the items waiting, without those being computed."""
        with self._condition:
            return self._live_items.queue_cost

    def start(self) -> None:
        """Start the worker and return at once; ``wait_until_ready`` waits for it.

        Raises ``RuntimeError`` when called a second time or after ``drain``.
        """
        with self._condition:
            if self._state is not BatcherState.CREATED:
                raise RuntimeError(f"Cannot start a batcher that is {self._state.value}.")
            self._state = BatcherState.STARTING
        self._launch_worker()

    def wait_until_ready(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for a ready worker; false too if there will be none."""
        hopeless = (BatcherState.DRAINING, BatcherState.STOPPED, BatcherState.FAILED)
        with self._condition:
            self._condition.wait_for(lambda: self._ready() or self._state in hopeless, timeout)
            return self._ready()

    def submit(
        self, item: Item, *, bucket: Hashable, cost: float, deadline: float | None = None
    ) -> Submission[Result]:
        """Queue an item and return at once.

        Items with equal ``bucket`` may be computed together. ``cost`` is positive, in the unit of
        the limits. An item not begun by ``deadline``, an instant on the batcher's clock, is
        dropped; one that by the measured drain rate would not be is refused. Cancelling the future
        takes the item out of the queue.

        Raises ``WorkerUnavailableError``, ``BatcherClosedError``, ``QueueFullError``,
        ``ItemTooLargeError``, or ``ValueError`` for a cost that is not positive and finite. The
        future may end with ``DeadlineExceededError``, ``BatcherClosedError``, ``WorkerDiedError``,
        ``ResultCountError``, ``ItemOutOfMemoryError``, or what the processor raised for the item.
        """
        ticket = next(self._tickets)
        submission: Submission[Result] = Submission(ticket)
        # The callback gets the ticket, not the entry: the caller may keep the future for long, and
        # it must not keep the item's memory with it.
        submission.future.add_done_callback(partial(self._withdraw, ticket))
        with self._admission(cost, deadline):
            self._live_items.enqueue(
                Pending(
                    ticket=ticket,
                    bucket=bucket,
                    cost=cost,
                    deadline=deadline,
                    enqueued_at=self._clock(),
                    item=item,
                    submission=submission,
                )
            )
            self._condition.notify_all()
        return submission

    def check_room(self, cost: float, deadline: float | None = None) -> None:
        """Refuse now what ``submit`` would refuse now, so that work before it can be saved.

        It promises nothing: the room may be gone when the item is submitted. Raises as ``submit``
        does.
        """
        with self._admission(cost, deadline):
            pass

    def standing(self, ticket: int) -> Standing | None:
        """Where a submitted item stands; ``None`` once it is finished."""
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

        Returns whether the worker has stopped. If not, every unfinished item has failed with
        ``BatcherClosedError`` and the worker stops after its present call; another ``drain``
        waits for that. Raises ``RuntimeError`` on the worker's own thread.
        """
        if threading.current_thread() is self._worker:
            raise RuntimeError("The worker cannot wait for itself to stop.")
        with self._condition:
            if self._state in (BatcherState.CREATED, BatcherState.FAILED):
                self._state = BatcherState.STOPPED
            elif self._state is not BatcherState.STOPPED:
                self._state = BatcherState.DRAINING
            self._condition.notify_all()
            stopped = self._condition.wait_for(self._has_stopped, timeout)
            unfinished, cancelled = self._live_items.claim_all(self._clock())
        self._report_cancelled(cancelled)
        for pending in unfinished:
            self._drop(pending, BatcherClosedError("The batcher was closed."), DropReason.CLOSED)
        self._report_queue()
        if stopped and self._worker is not None:
            self._worker.join()
        return stopped

    # Under the lock: the caller of each of these holds self._condition.

    def _ready(self) -> bool:
        return (
            self._state is BatcherState.READY
            and self._worker is not None
            and self._worker.is_alive()
        )

    def _has_stopped(self) -> bool:
        return self._state is BatcherState.STOPPED

    def _require_ready(self) -> None:
        if self._ready():
            return
        if self._state in (BatcherState.DRAINING, BatcherState.STOPPED):
            raise BatcherClosedError(f"The batcher {self.name} is {self._state.value}.")
        raise WorkerUnavailableError(
            max(self._restart_delay(), DEFAULT_RETRY_AFTER_SECONDS)
        ) from self._last_failure

    def _restart_delay(self) -> float:
        if not self._consecutive_failures:
            return 0.0
        return self._restart_backoff.delay_seconds(self._consecutive_failures)

    def _seconds_until_room(self, cost: float) -> float:
        ahead = self._live_items.in_flight_cost + self._live_items.excess(cost)
        seconds = self._drain_rate.seconds_for(ahead)
        return DEFAULT_RETRY_AFTER_SECONDS if seconds is None else seconds

    def _require_time(self, cost: float, deadline: float | None) -> None:
        """Refuse what would be given up later, after others have waited behind it."""
        ahead = self._live_items.in_flight_cost + self._live_items.queue_cost
        # With nothing ahead an item is always tried: an outdated rate must not refuse for ever.
        seconds = self._drain_rate.seconds_for(ahead + cost) if ahead else None
        if deadline is None or seconds is None:
            return
        late = self._clock() + _WAIT_MARGIN * seconds - deadline
        if late > 0:
            raise QueueFullError(late, "What waits leaves no time for the item by its deadline")

    # On the worker's thread, without the lock.

    def _launch_worker(self) -> None:
        # Explicitly not a daemon: a thread otherwise inherits that from whoever starts it.
        worker = threading.Thread(
            target=self._run_worker, name=f"batcher-{self.name}", daemon=False
        )
        with self._condition:
            self._worker = worker
        try:
            worker.start()
        except RuntimeError:
            logger.exception("Batcher %s: no thread could be started", self.name)
            with self._condition:
                self._worker = None
                draining = self._state is BatcherState.DRAINING
                self._state = BatcherState.STOPPED if draining else BatcherState.FAILED
                self._condition.notify_all()

    def _run_worker(self) -> None:
        # A worker that dies takes its thread along, and a new thread replaces it: whatever the
        # old one left in thread-local state, such as a gradient mode, is gone with it.
        try:
            with contextlib.suppress(BaseException):  # it ended this worker, and is logged
                self._live()
        finally:
            self._end_life()

    def _live(self) -> None:
        if not self._wait_out_backoff():
            return
        with self._reporting_death():
            self._processor.start()
        try:
            with self._reporting_death():
                self._serve()
        finally:
            self._stop_processor()

    def _wait_out_backoff(self) -> bool:
        with self._condition:
            return not self._condition.wait_for(
                lambda: self._state is BatcherState.DRAINING, self._restart_delay()
            )

    def _serve(self) -> None:
        with self._condition:
            if self._state is not BatcherState.DRAINING:
                self._state = BatcherState.READY
                self._condition.notify_all()
        while self._compute_next_batch():
            pass

    def _compute_next_batch(self) -> bool:
        """Wait for a batch and compute it; false once drained.

        A function of its own so that its return lets go of the batch: an idle worker must not
        keep the last images in memory.
        """
        batch, expired, cancelled = self._next_batch()
        self._report_queue()
        self._report_cancelled(cancelled)
        self._fail_expired(expired)
        if batch:
            self._compute(batch)
        return bool(batch or expired or cancelled)

    def _next_batch(self) -> NextBatch[Item, Result]:
        with self._condition:
            while True:
                now = self._clock()
                draining = self._state is BatcherState.DRAINING
                following = self._live_items.next_batch(now, without_waiting=draining)
                if any(following) or draining:
                    return following
                due_at = self._live_items.next_due_at()
                self._condition.wait(None if due_at is None else due_at - now)

    def _compute(self, batch: list[Pending[Item, Result]]) -> None:
        for pending in batch:
            notify(self._observer.queue_waited, pending.submission.queue_seconds)
        size, cost = 0, 0.0
        started_at = self._clock()
        for part, outcomes in run_in_parts(
            self._processor.process,
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
            self._drain_rate.record(cost, seconds)
            self._consecutive_failures = 0
            self._last_failure = None
        notify(self._observer.batch_finished, size, cost, seconds)

    def _still_wanted(self, part: list[Pending[Item, Result]]) -> list[Pending[Item, Result]]:
        with self._condition:
            wanted, expired = self._live_items.still_wanted(part, self._clock())
        self._fail_expired(expired)
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

    @contextlib.contextmanager
    def _reporting_death(self) -> Iterator[None]:
        try:
            yield
        finally:
            failure = sys.exception()
            if failure is not None:
                self._report_death(failure)

    def _report_death(self, failure: BaseException) -> None:
        with self._condition:
            if self._state is not BatcherState.DRAINING:
                self._state = BatcherState.RESTARTING
            self._consecutive_failures += 1
            self._last_failure = failure
            unfinished, cancelled = self._live_items.claim_all(self._clock())
            self._condition.notify_all()
        forget_locals(failure)
        self._report_cancelled(cancelled)
        for pending in unfinished:
            error = WorkerDiedError("The worker died before the item was finished.")
            error.__cause__ = failure
            self._drop(pending, error, DropReason.WORKER_DIED)
        self._report_queue()
        logger.error("Batcher %s: the worker died", self.name, exc_info=failure)

    def _stop_processor(self) -> None:
        stopped = False
        try:
            self._processor.stop()
            stopped = True
        finally:
            if not stopped:
                logger.error("Batcher %s: the processor failed to stop", self.name, exc_info=True)

    def _end_life(self) -> None:
        with self._condition:
            replace = self._state is BatcherState.RESTARTING
            if not replace:
                self._state = BatcherState.STOPPED
                self._condition.notify_all()
        if replace:
            notify(self._observer.worker_restarted)
            self._launch_worker()

    # On any thread, without the lock.

    @contextlib.contextmanager
    def _admission(self, cost: float, deadline: float | None) -> Iterator[None]:
        """Hold the lock over the block if an item of this cost can be queued; else refuse it."""
        if not (math.isfinite(cost) and cost > 0):
            raise ValueError("cost must be positive and finite")
        if cost > self._limits.max_queue_cost:
            raise ItemTooLargeError(cost, self._limits.max_queue_cost)
        expired: list[Pending[Item, Result]] = []
        cancelled = 0
        try:
            with self._condition:
                self._require_ready()
                if self._live_items.excess(cost) > 0:
                    expired, cancelled = self._live_items.claim_expired(self._clock())
                if self._live_items.excess(cost) > 0:
                    raise QueueFullError(self._seconds_until_room(cost))
                self._require_time(cost, deadline)
                yield
        finally:
            self._report_cancelled(cancelled)
            self._fail_expired(expired)
            self._report_queue()

    def _withdraw(self, ticket: int, _future: Future[Result]) -> None:
        with self._condition:
            withdrawn = self._live_items.withdraw(ticket, self._clock())
        if withdrawn:
            self._report_cancelled(1)
            self._report_queue()

    def _fail_expired(self, expired: list[Pending[Item, Result]]) -> None:
        for pending in expired:
            error = DeadlineExceededError(self._clock() - pending.enqueued_at)
            self._drop(pending, error, DropReason.DEADLINE)

    def _drop(
        self, pending: Pending[Item, Result], error: BatchingError, reason: DropReason
    ) -> None:
        notify(self._observer.item_dropped, reason)
        pending.resolve(error)

    def _report_cancelled(self, count: int) -> None:
        for _ in range(count):
            notify(self._observer.item_dropped, DropReason.CANCELLED)

    def _report_queue(self) -> None:
        # Reading and reporting under one lock of their own: otherwise an older reading could be
        # reported last, and a gauge would show a queue that is long gone.
        with self._queue_report_lock:
            with self._condition:
                depth, cost = self._live_items.queue_depth, self._live_items.queue_cost
            notify(self._observer.queue_changed, depth, cost)
