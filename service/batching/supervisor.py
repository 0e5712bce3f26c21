"""Supervises one worker thread: starts it, and replaces it when it dies or hangs."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, TypeVar

from service.batching.endings import Endings
from service.batching.errors import (
    BatcherClosedError,
    BatchingError,
    WorkerDiedError,
    WorkerStalledError,
    WorkerUnavailableError,
)
from service.batching.execution import Processor, forget_locals
from service.batching.live_items import Claimed
from service.batching.observer import BatchObserver, DropReason, notify
from service.batching.pacing import DEFAULT_RETRY_AFTER_SECONDS, RestartBackoff
from service.batching.watchdog import Watchdog

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_STUCK_WORKERS = 3
"""Most hung threads at once; the last of them is not replaced."""


class BatcherState(Enum):
    """State of a worker or of a batcher; items are accepted in ``READY`` only."""

    CREATED = "created"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"
    """No thread could be created, or too many hang. A new worker starts only if a hung one
    returns."""


class Supervisor(Generic[Item, Result]):
    """Calls a step in a loop on the worker's thread, between the processor's start and stop.

    A thread that hangs in a call of the processor cannot be ended. It is abandoned: it is no longer
    the current worker, and its later actions have no effect.
    """

    def __init__(
        self,
        name: str,
        worker_name: str,
        processor: Processor[Item, Result],
        begin: "Callable[[Supervisor[Item, Result]], Callable[[], bool]]",
        *,
        lock: threading.Condition,
        claim: "Callable[[Supervisor[Item, Result]], Claimed[Item, Result]]",
        endings: Endings[Item, Result],
        observer: BatchObserver,
        restart_backoff: RestartBackoff,
        stall_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """Create the supervisor without starting a thread.

        Args:
            name: name of the batcher and of the worker, for log lines and threads.
            worker_name: name of the worker in its batcher.
            processor: started and stopped here.
            begin: called with this supervisor on each new thread; returns the thread's step, which
                returns false to end it.
            lock: the batcher's lock, which also guards the state.
            claim: claims the items that fail with the worker, under the lock.
            endings: fails those items.
            observer: receives stalls and restarts.
            restart_backoff: delays before a new worker starts.
            stall_seconds: longest time that one call of the processor may take.
            clock: returns seconds.
        """
        self.state = BatcherState.CREATED
        self.worker_name = worker_name
        self._name = name
        self.processor = processor
        self._begin = begin
        self._lock = lock
        self._claim = claim
        self._endings = endings
        self._observer = observer
        self._restart_backoff = restart_backoff
        self._stall_seconds = stall_seconds
        self._worker: threading.Thread | None = None
        self._stuck: list[threading.Thread] = []
        self._consecutive_failures = 0
        self._last_failure: BaseException | None = None
        self._watchdog = Watchdog(f"watchdog-{name}", stall_seconds, self._give_up, clock)

    # Under the lock: the caller of each of these holds it.

    @property
    def worker(self) -> threading.Thread | None:
        """The current worker's thread."""
        return self._worker

    @property
    def ready(self) -> bool:
        """Whether a live, started worker takes items."""
        return (
            self.state is BatcherState.READY
            and self._worker is not None
            and self._worker.is_alive()
        )

    @property
    def serving(self) -> bool:
        """Whether a live, started worker computes the items that are queued."""
        return self.ready or (
            self.state is BatcherState.DRAINING
            and self._worker is not None
            and self._worker.is_alive()
        )

    def is_current(self) -> bool:
        """Whether the calling thread is the current worker, and not an abandoned one."""
        return threading.current_thread() is self._worker

    def require_ready(self) -> None:
        """Check that a worker takes items.

        Raises:
            BatcherClosedError: the batcher is draining or stopped.
            WorkerUnavailableError: no worker is ready.
        """
        if self.ready:
            return
        if self.state in (BatcherState.DRAINING, BatcherState.STOPPED):
            raise BatcherClosedError(f"The batcher {self._name} is {self.state.value}.")
        raise WorkerUnavailableError(
            max(self._restart_delay(), DEFAULT_RETRY_AFTER_SECONDS)
        ) from self._last_failure

    def begin_draining(self) -> None:
        """Tell the worker to end once the queue is empty."""
        if self.state in (BatcherState.CREATED, BatcherState.FAILED):
            self._stop()
        elif self.state is not BatcherState.STOPPED:
            self.state = BatcherState.DRAINING
        self._lock.notify_all()

    def succeeded(self) -> None:
        """Reset the count of consecutive failures, after a computed batch."""
        self._consecutive_failures = 0
        self._last_failure = None

    def _stop(self) -> None:
        self.state = BatcherState.STOPPED
        self._watchdog.close()

    def _failed(self, failure: BaseException, state: BatcherState) -> None:
        self._consecutive_failures += 1
        self._last_failure = failure
        if self.state is not BatcherState.DRAINING:
            self.state = state
        self._lock.notify_all()

    def _restart_delay(self) -> float:
        if not self._consecutive_failures:
            return 0.0
        return self._restart_backoff.delay_seconds(self._consecutive_failures)

    # Without the lock.

    def join(self) -> None:
        """Wait for the threads of a stopped batcher to end, except for abandoned ones."""
        if self._worker is not None:
            self._worker.join()
        self._watchdog.join()

    def launch(self) -> None:
        """Start a worker thread; if the system has none left, the batcher fails."""
        # Explicitly not a daemon: a thread otherwise inherits the flag from its creator.
        worker = threading.Thread(target=self._run, name=f"batcher-{self._name}", daemon=False)
        with self._lock:
            self._worker = worker
        try:
            worker.start()
        except RuntimeError:
            logger.exception("Batcher %s: no thread could be started", self._name)
            with self._lock:
                self._worker = None
                if self.state is BatcherState.DRAINING:
                    self._stop()
                else:
                    self.state = BatcherState.FAILED
                self._lock.notify_all()

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """Watch one call of the processor for stalls, unless this worker was abandoned before."""
        # Its watch would start a watchdog again that was closed for good.
        return self._watchdog.watching() if self.is_current() else contextlib.nullcontext()

    # On the worker's thread.

    def _run(self) -> None:
        # A dead worker is replaced by a new thread, not restarted on its own: thread-local state
        # that it left behind, such as a gradient mode, ends with its thread.
        try:
            with contextlib.suppress(BaseException):  # already logged by _report_death
                self._live()
        finally:
            self._end_life()

    def _live(self) -> None:
        if not self._wait_out_backoff():
            return
        with self._reporting_death(), self.watching():
            self.processor.start()
        try:
            with self._reporting_death():
                self._serve()
        finally:
            self._stop_processor()

    def _wait_out_backoff(self) -> bool:
        with self._lock:
            return not self._lock.wait_for(
                lambda: self.state is BatcherState.DRAINING, self._restart_delay()
            )

    def _serve(self) -> None:
        with self._lock:
            if self.is_current() and self.state is not BatcherState.DRAINING:
                self.state = BatcherState.READY
                self._lock.notify_all()
        step = self._begin(self)
        while step():
            pass

    @contextlib.contextmanager
    def _reporting_death(self) -> Iterator[None]:
        try:
            yield
        finally:
            failure = sys.exception()
            if failure is not None:
                self._report_death(failure)

    def _report_death(self, failure: BaseException) -> None:
        with self._lock:
            if not self.is_current():
                return
            self._failed(failure, BatcherState.RESTARTING)
            claimed = self._claim(self)
        forget_locals(failure)

        def error() -> BatchingError:
            died = WorkerDiedError("The worker died before the item was finished.")
            died.__cause__ = failure
            return died

        self._endings.fail_all(claimed, error, DropReason.WORKER_DIED)
        logger.error("Batcher %s: the worker died", self._name, exc_info=failure)

    def _stop_processor(self) -> None:
        with self._lock:
            # For an abandoned worker ``processor.abandon`` was called instead.
            if not self.is_current():
                return
        stopped = False
        try:
            with self.watching():
                self.processor.stop()
            stopped = True
        finally:
            if not stopped:
                logger.error("Batcher %s: the processor failed to stop", self._name, exc_info=True)

    def _end_life(self) -> None:
        with self._lock:
            given_up = not self.is_current()
            if given_up:
                self._stuck = [each for each in self._stuck if not _is_this(each)]
                replace = self.state is BatcherState.FAILED
                if replace:
                    self.state = BatcherState.RESTARTING
            else:
                replace = self.state is BatcherState.RESTARTING
                if not replace:
                    self._stop()
                    self._lock.notify_all()
        if given_up:
            logger.warning("Batcher %s: a hung worker has returned and ends", self._name)
        if replace:
            self._replace()

    # On the watchdog's thread, or on a worker's.

    def _give_up(self, worker: threading.Thread) -> None:
        failure = WorkerStalledError(self._stall_seconds)
        with self._lock:
            if self._worker is not worker:
                return
            self._worker = None
            self._stuck = [*(each for each in self._stuck if each.is_alive()), worker]
            replace = len(self._stuck) < MAX_STUCK_WORKERS
            self._failed(failure, BatcherState.RESTARTING if replace else BatcherState.FAILED)
            if self.state is BatcherState.DRAINING:
                replace = False
                self._stop()
            claimed = self._claim(self)
        try:
            self.processor.abandon()
        except Exception:
            logger.exception("Batcher %s: the processor failed to abandon", self._name)
        notify(self._observer.worker_stalled, self.worker_name)
        self._endings.fail_all(
            claimed, lambda: WorkerStalledError(self._stall_seconds), DropReason.WORKER_STALLED
        )
        logger.error(
            "Batcher %s: the worker hangs for more than %g s and is given up; %d are stuck, and %s",
            self._name,
            self._stall_seconds,
            len(self._stuck),
            "another one replaces it" if replace else "none replaces it",
        )
        if replace:
            self._replace()

    def _replace(self) -> None:
        notify(self._observer.worker_restarted, self.worker_name)
        self.launch()


def _is_this(thread: threading.Thread) -> bool:
    return thread is threading.current_thread()
