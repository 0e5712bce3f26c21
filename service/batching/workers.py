"""The workers of one batcher: one for each device, behind one queue."""

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from service.batching.endings import Endings
from service.batching.execution import Processor
from service.batching.live_items import Claimed, LiveItems
from service.batching.observer import BatchObserver
from service.batching.pacing import RestartBackoff
from service.batching.supervisor import BatcherState, Supervisor

Item = TypeVar("Item")
Result = TypeVar("Result")

# A batcher is in the first of these states that one of its workers is in.
_PRECEDENCE = (
    BatcherState.READY,
    BatcherState.DRAINING,
    BatcherState.STARTING,
    BatcherState.RESTARTING,
    BatcherState.FAILED,
    BatcherState.CREATED,
    BatcherState.STOPPED,
)
HOPELESS = (BatcherState.DRAINING, BatcherState.STOPPED, BatcherState.FAILED)
"""States in which no worker becomes ready."""


class Workers(Generic[Item, Result]):
    """Supervises every worker of a batcher. A worker that fails leaves the others serving.

    The caller of every method but :meth:`launch` and :meth:`join` holds the lock.
    """

    def __init__(
        self,
        name: str,
        processors: Mapping[str, Processor[Item, Result]],
        begin: Callable[[Supervisor[Item, Result]], Callable[[], bool]],
        *,
        lock: threading.Condition,
        live_items: LiveItems[Item, Result],
        endings: Endings[Item, Result],
        observer: BatchObserver,
        restart_backoff: RestartBackoff,
        stall_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """Create the workers without starting a thread.

        Args:
            name: name of the batcher.
            processors: the processor of each worker, by the worker's name.
            begin: called with a worker's supervisor on each of its threads; returns the thread's
                step.
            lock: the batcher's lock.
            live_items: the unfinished items.
            endings: fails the items of a lost worker.
            observer: receives stalls and restarts.
            restart_backoff: delays before a new worker starts.
            stall_seconds: longest time that one call of a processor may take.
            clock: returns seconds.

        Raises:
            ValueError: there is no worker.
        """
        if not processors:
            raise ValueError("A batcher needs at least one worker.")
        self._live_items = live_items
        self._clock = clock
        self._supervisors: dict[str, Supervisor[Item, Result]] = {}
        for worker, processor in processors.items():
            self._supervisors[worker] = Supervisor(
                f"{name}-{worker}",
                worker,
                processor,
                begin,
                lock=lock,
                claim=self._claim,
                endings=endings,
                observer=observer,
                restart_backoff=restart_backoff,
                stall_seconds=stall_seconds,
                clock=clock,
            )

    @property
    def states(self) -> dict[str, BatcherState]:
        """The state of each worker, by its name."""
        return {
            worker: BatcherState.RESTARTING
            if each.state is BatcherState.READY and not each.ready
            else each.state
            for worker, each in self._supervisors.items()
        }

    @property
    def state(self) -> BatcherState:
        """The state of the batcher."""
        states = {each.state for each in self._supervisors.values()}
        return next(state for state in _PRECEDENCE if state in states)

    @property
    def ready(self) -> bool:
        """Whether a worker takes items."""
        return any(each.ready for each in self._supervisors.values())

    @property
    def settled(self) -> bool:
        """Whether every worker is ready, or cannot become so."""
        return all(each.ready or each.state in HOPELESS for each in self._supervisors.values())

    @property
    def ready_names(self) -> list[str]:
        """Names of the workers that take items."""
        return [worker for worker, each in self._supervisors.items() if each.ready]

    @property
    def ready_count(self) -> int:
        """Number of workers that take items, at least 1."""
        return max(1, sum(each.ready for each in self._supervisors.values()))

    def require_ready(self) -> None:
        """Check that a worker takes items.

        Raises:
            BatcherClosedError: the batcher is draining or stopped.
            WorkerUnavailableError: no worker is ready.
        """
        if not self.ready:
            for each in self._supervisors.values():
                each.require_ready()

    def is_worker(self) -> bool:
        """Whether the calling thread is one of the workers."""
        return any(each.is_current() for each in self._supervisors.values())

    def begin_starting(self) -> None:
        """Note that the workers are about to start."""
        for each in self._supervisors.values():
            each.state = BatcherState.STARTING

    def begin_draining(self) -> None:
        """Tell the workers to end once the queue is empty."""
        for each in self._supervisors.values():
            each.begin_draining()

    def _claim(self, lost: Supervisor[Item, Result]) -> Claimed[Item, Result]:
        """Claim the items that a lost worker computes; without another one, the queued ones too."""
        others = (each for each in self._supervisors.values() if each is not lost)
        if any(each.serving for each in others):
            return self._live_items.claim_of(lost.worker_name)
        return self._live_items.claim_all(self._clock())

    # Without the lock.

    def launch(self) -> None:
        """Start a thread for each worker."""
        for each in self._supervisors.values():
            each.launch()

    def join(self) -> None:
        """Wait for the threads of a stopped batcher to end, except for abandoned ones."""
        for each in self._supervisors.values():
            each.join()
