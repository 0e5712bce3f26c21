"""A processor, an observer and a clock for tests of the micro-batcher."""

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from service.batching import (
    BatcherState,
    BatchLimits,
    Computed,
    DropReason,
    MicroBatcher,
    QueueReservation,
    Submission,
)
from service.batching.supervisor import Supervisor

WAIT_SECONDS = 5.0
ROOMY = BatchLimits(max_batch_items=8, max_batch_cost=100.0, max_queue_cost=100.0)


class ManualClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class RecordingProcessor:
    """A processor that answers each item with ``("done", item)``, or with ``behave`` if given."""

    def __init__(self, behave: Callable[[list[Any]], Any] | None = None) -> None:
        self.behave = behave or (lambda items: [("done", item) for item in items])
        self.on_start: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self.batches: list[list[Any]] = []
        self.events: list[str] = []
        self.threads: list[threading.Thread] = []
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def start(self) -> None:
        self.events.append("start")
        self.threads.append(threading.current_thread())
        self.on_start()

    def launch(self, items: Sequence[Any]) -> Computed[Any]:
        self.batches.append(list(items))
        self._entered.release()
        assert self._open.wait(WAIT_SECONDS)
        return Computed(self.behave(list(items)))

    def stop(self) -> None:
        self.events.append("stop")
        self.on_stop()

    def abandon(self) -> None:
        self.events.append("abandon")

    def release(self) -> None:
        self._open.set()

    @contextlib.contextmanager
    def busy(self, batcher: MicroBatcher[Any, Any]) -> Iterator[Submission[Any]]:
        """Keep the worker inside ``launch`` with one item of cost 1 while the block runs."""
        while self._entered.acquire(blocking=False):
            pass
        self._open.clear()
        submission = batcher.submit("blocker", bucket="blocker", cost=1.0)
        assert self._entered.acquire(timeout=WAIT_SECONDS)
        try:
            yield submission
        finally:
            self.release()


class RecordingObserver:
    def __init__(self) -> None:
        self.waits: list[float] = []
        self.finished: list[tuple[int, float, float]] = []
        self.drops: list[DropReason] = []
        self.restarts = 0
        self.stalls = 0

    def queue_waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def batch_finished(self, worker: str, size: int, cost: float, seconds: float) -> None:
        self.finished.append((size, cost, seconds))

    def item_dropped(self, reason: DropReason) -> None:
        self.drops.append(reason)

    def worker_restarted(self, worker: str) -> None:
        self.restarts += 1

    def worker_stalled(self, worker: str) -> None:
        self.stalls += 1


MakeBatcher = Callable[..., MicroBatcher[Any, Any]]


def supervisor_of(batcher: MicroBatcher[Any, Any]) -> Supervisor[Any, Any]:
    """Return the supervisor of a batcher's only worker."""
    (supervisor,) = batcher._workers._supervisors.values()
    return supervisor


def submit_all(
    batcher: MicroBatcher[Any, Any],
    items: Sequence[Any],
    *,
    bucket: Hashable = "bucket",
    cost: float = 1.0,
    deadline: float | None = None,
) -> list[Submission[Any]]:
    return [batcher.submit(item, bucket=bucket, cost=cost, deadline=deadline) for item in items]


def result(submission: Submission[Any]) -> Any:
    return submission.future.result(WAIT_SECONDS)


def error(submission: Submission[Any]) -> BaseException | None:
    return submission.future.exception(WAIT_SECONDS)


def wait_for_state(batcher: MicroBatcher[Any, Any], state: BatcherState) -> None:
    with batcher._condition:
        assert batcher._condition.wait_for(lambda: batcher.state is state, WAIT_SECONDS)


def assert_set(event: threading.Event) -> None:
    assert event.wait(WAIT_SECONDS)


@contextlib.contextmanager
def reserved(
    batcher: MicroBatcher[Any, Any], cost: float, owner: Hashable = None
) -> Iterator[QueueReservation]:
    """Reserve room in a batcher for as long as the context lasts."""
    reservation = batcher.reserve(cost, owner=owner)
    try:
        yield reservation
    finally:
        batcher.release(reservation)
