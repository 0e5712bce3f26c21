"""The work of a worker's thread: take a batch, compute it, end its items."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from service.batching.endings import Endings
from service.batching.live_items import LiveItems, NextBatch, Pending
from service.batching.observer import BatchObserver, notify
from service.batching.pacing import DrainRate
from service.batching.pipeline import Failures, Pipeline
from service.batching.supervisor import BatcherState, Supervisor

# How often a worker looks whether its device is done while it gathers the next batch.
_LOOK_SECONDS = 0.001

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerLoop(Generic[Item, Result]):
    """The steps that the threads of all workers of a batcher repeat."""

    def __init__(
        self,
        lock: threading.Condition,
        live_items: LiveItems[Item, Result],
        endings: Endings[Item, Result],
        drain_rate: DrainRate,
        observer: BatchObserver,
        failures: Failures,
        clock: Callable[[], float],
    ) -> None:
        """Share the parts of a batcher.

        Args:
            lock: the batcher's lock.
            live_items: the unfinished items.
            endings: ends items without a result.
            drain_rate: receives the speed of each batch.
            observer: receives waits and batches.
            failures: tells errors of the processors apart.
            clock: returns seconds.
        """
        self._lock = lock
        self._live_items = live_items
        self._endings = endings
        self._drain_rate = drain_rate
        self._observer = observer
        self._failures = failures
        self._clock = clock
        self._idle = 0

    def begin(self, worker: Supervisor[Item, Result]) -> Callable[[], bool]:
        """Return the step of a new thread of a worker; it returns false to end the thread."""
        pipeline: Pipeline[Item, Result] = Pipeline(
            worker.processor,
            still_wanted=self._still_wanted,
            finish=self._finish,
            batch_finished=partial(self._batch_finished, worker),
            failures=self._failures,
            watching=worker.watching,
            clock=self._clock,
        )
        return partial(self._step, worker, pipeline)

    def _step(self, worker: Supervisor[Item, Result], pipeline: Pipeline[Item, Result]) -> bool:
        """Take the next batch and advance; false once drained, or if this worker was abandoned.

        A function of its own, so that its return releases the batch: an idle worker must not keep
        the last images in memory.
        """
        batch, expired, cancelled = NextBatch[Item, Result]([], [], 0)
        if pipeline.wants_batch:
            batch, expired, cancelled = self._next_batch(worker, pipeline)
        if batch:
            for pending in batch:
                notify(self._observer.queue_waited, pending.submission.queue_seconds)
            pipeline.add(batch)
        elif self._was_given_up(worker):
            # Its device may hang, and must not be waited for.
            return False
        goes_on = bool(expired or cancelled or pipeline.busy)
        pipeline.advance()
        return goes_on

    def _next_batch(
        self, worker: Supervisor[Item, Result], pipeline: Pipeline[Item, Result]
    ) -> NextBatch[Item, Result]:
        if pipeline.busy:
            return self._batch_beside(worker, pipeline)
        with self._lock:
            following = self._batch(worker)
        self._report(following)
        return following

    def _batch_beside(
        self, worker: Supervisor[Item, Result], pipeline: Pipeline[Item, Result]
    ) -> NextBatch[Item, Result]:
        """Wait for a batch while the device computes; without one if the device is done first.

        A batch that is not full stays in the queue until the device is about to need it: meanwhile
        it grows. While another worker is idle, that one takes it.
        """
        with self._lock:
            due_at = pipeline.next_launch_at(self._drain_rate.seconds_for)
        # Items that end in the queue do not end the watch: a device that hangs is never done.
        with worker.watching():
            while True:
                with self._lock:
                    following = self._look(worker, pipeline, due_at)
                self._report(following)
                if following.batch or not any(following):
                    return following
                # The pictures of ended items must not be kept while it looks on.
                del following

    # Under the lock.

    def _batch(self, worker: Supervisor[Item, Result]) -> NextBatch[Item, Result]:
        """Wait for a batch."""
        while worker.is_current():
            now = self._clock()
            draining = worker.state is BatcherState.DRAINING
            following = self._live_items.next_batch(
                now, worker.worker_name, without_waiting=draining
            )
            if any(following) or draining:
                return following
            due_at = self._live_items.next_due_at()
            self._idle += 1
            try:
                self._lock.wait(None if due_at is None else due_at - now)
            finally:
                self._idle -= 1
        return NextBatch([], [], 0)

    def _look(
        self, worker: Supervisor[Item, Result], pipeline: Pipeline[Item, Result], due_at: float
    ) -> NextBatch[Item, Result]:
        """Wait for a batch, or for items that ended in the queue, until the device is done."""
        while worker.is_current() and not pipeline.done:
            if not self._idle:
                now = self._clock()
                following = self._live_items.next_batch(
                    now, worker.worker_name, only_full=now < due_at
                )
                if any(following):
                    return following
            self._lock.wait(_LOOK_SECONDS)
        return NextBatch([], [], 0)

    # Without the lock.

    def _report(self, following: NextBatch[Item, Result]) -> None:
        """Report the items that ended in the queue."""
        self._endings.report_cancelled(following.cancelled)
        self._endings.fail_expired(following.expired)

    def _was_given_up(self, worker: Supervisor[Item, Result]) -> bool:
        with self._lock:
            return not worker.is_current()

    def _still_wanted(self, part: list[Pending[Item, Result]]) -> list[Pending[Item, Result]]:
        with self._lock:
            wanted, expired = self._live_items.still_wanted(part, self._clock())
        self._endings.fail_expired(expired)
        return wanted

    def _finish(
        self, part: list[Pending[Item, Result]], outcomes: list[Result | Exception]
    ) -> None:
        now = self._clock()
        with self._lock:
            owned = [self._live_items.take_in_flight(pending) for pending in part]
        for pending, outcome, is_owned in zip(part, outcomes, owned, strict=True):
            if is_owned:
                pending.submission.compute_seconds = now - pending.dequeued_at
                pending.submission.batch_size = len(part)
                pending.resolve(outcome)

    def _batch_finished(
        self, worker: Supervisor[Item, Result], size: int, cost: float, seconds: float
    ) -> None:
        with self._lock:
            if not worker.is_current():
                return
            self._drain_rate.record(cost, seconds)
            worker.succeeded()
        notify(self._observer.batch_finished, worker.worker_name, size, cost, seconds)
