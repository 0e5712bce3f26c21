"""Every submitted item ends exactly once, whatever else happens."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import (
    BatcherClosedError,
    BatcherState,
    BatchLimits,
    Computed,
    DeadlineExceededError,
    DropReason,
    ItemOutOfMemoryError,
    MicroBatcher,
    QueueFullError,
    RestartBackoff,
    ResultCountError,
    SilentObserver,
    Submission,
    WorkerDiedError,
    WorkerStalledError,
    WorkerUnavailableError,
)
from tests.support.recording_batcher import supervisor_of

WAIT_SECONDS = 10.0
# Longer than the small steps of the scripts, so that calls stall only where a script says so.
STALL_SECONDS = 1000.0


class Behaviour(Enum):
    """The effect of an item on its batch."""

    SUCCEEDS = auto()
    IS_REFUSED = auto()
    RAISES = auto()
    NEVER_FITS_IN_MEMORY = auto()
    FITS_IN_MEMORY_ALONE = auto()
    LOSES_A_RESULT = auto()
    KILLS_THE_WORKER = auto()


@dataclass(frozen=True)
class Submit:
    behaviour: Behaviour
    bucket: int
    cost: float
    deadline: float | None


@dataclass(frozen=True)
class Cancel:
    which: int


class Step(Enum):
    HOLD = auto()
    RELEASE = auto()
    LET_TIME_PASS = auto()
    LET_A_CALL_STALL = auto()
    AWAIT_READY = auto()
    AWAIT_ALL = auto()
    CLOSE_AT_ONCE = auto()


ITEM_STEPS = st.builds(
    Submit,
    st.one_of(st.just(Behaviour.SUCCEEDS), st.sampled_from(Behaviour)),
    st.integers(0, 2),
    st.sampled_from([0.1, 1.0, 3.0, 6.0]),
    st.sampled_from([None, None, 0.0, 1.0, 2.0]),
)
STEPS = st.lists(
    st.one_of(
        ITEM_STEPS,
        ITEM_STEPS,
        st.builds(Cancel, st.integers(0, 30)),
        st.sampled_from([step for step in Step if step is not Step.CLOSE_AT_ONCE]),
        st.sampled_from(Step),
    ),
    max_size=40,
)


class ScriptedProcessor:
    def __init__(self, failing_starts: Sequence[bool]) -> None:
        self.starts = 0
        self.stops = 0
        self.abandoned = 0
        self._gate = threading.Condition()
        self._open = True
        self._held: set[threading.Thread] = set()
        self._failing_starts = list(failing_starts)

    def hold(self) -> None:
        with self._gate:
            self._open = False

    def release(self) -> None:
        with self._gate:
            self._open = True
            self._gate.notify_all()

    def holds(self, worker: threading.Thread) -> bool:
        """Whether a worker's call does not end before the release, after :meth:`hold`."""
        with self._gate:
            return worker in self._held

    def start(self) -> None:
        if self._failing_starts and self._failing_starts.pop():
            raise OSError("no device")
        self.starts += 1

    def launch(self, items: Sequence[Submit]) -> Computed[Submit]:
        with self._gate:
            self._held.add(threading.current_thread())
            assert self._gate.wait_for(lambda: self._open, WAIT_SECONDS)
            self._held.discard(threading.current_thread())
        behaviours = {item.behaviour for item in items}
        if Behaviour.KILLS_THE_WORKER in behaviours:
            raise SystemExit
        if Behaviour.NEVER_FITS_IN_MEMORY in behaviours:
            raise MemoryError
        if Behaviour.FITS_IN_MEMORY_ALONE in behaviours and len(items) > 1:
            raise MemoryError
        if Behaviour.RAISES in behaviours:
            raise ValueError
        results: list[Submit | Exception] = [
            KeyError("refused") if item.behaviour is Behaviour.IS_REFUSED else item
            for item in items
        ]
        return Computed(results[1:] if Behaviour.LOSES_A_RESULT in behaviours else results)

    def stop(self) -> None:
        self.stops += 1

    def abandon(self) -> None:
        self.abandoned += 1


class CountingObserver(SilentObserver):
    def __init__(self) -> None:
        self.drops: Counter[DropReason] = Counter()
        self.stalls = 0
        self.computed = 0

    def batch_finished(self, worker: str, size: int, cost: float, seconds: float) -> None:
        self.computed += size

    def item_dropped(self, reason: DropReason) -> None:
        self.drops[reason] += 1

    def worker_stalled(self, worker: str) -> None:
        self.stalls += 1


OWN_ENDS: dict[Behaviour, type | None] = {
    Behaviour.SUCCEEDS: None,
    Behaviour.IS_REFUSED: KeyError,
    Behaviour.RAISES: ValueError,
    Behaviour.NEVER_FITS_IN_MEMORY: ItemOutOfMemoryError,
    Behaviour.FITS_IN_MEMORY_ALONE: None,
    Behaviour.LOSES_A_RESULT: ResultCountError,
    Behaviour.KILLS_THE_WORKER: WorkerDiedError,
}
DROPPED_BECAUSE = {
    DeadlineExceededError: DropReason.DEADLINE,
    BatcherClosedError: DropReason.CLOSED,
    WorkerDiedError: DropReason.WORKER_DIED,
    WorkerStalledError: DropReason.WORKER_STALLED,
}


def check_end(item: Submit, future: Future[Any]) -> DropReason | None:
    """Check that the item ended in an allowed way; return the reason if it was dropped."""
    if future.cancelled():
        return DropReason.CANCELLED
    failure = future.exception(timeout=0)
    for dropped, reason in DROPPED_BECAUSE.items():
        if isinstance(failure, dropped):
            assert reason is not DropReason.DEADLINE or item.deadline is not None
            return reason
    if isinstance(failure, ResultCountError):
        return None  # that of a neighbour who lost a result
    own_end = OWN_ENDS[item.behaviour]
    if own_end is None:
        assert failure is None
        assert future.result() is item
    else:
        assert type(failure) is own_end
    return None


@settings(max_examples=300)
@given(
    steps=STEPS,
    failing_starts=st.lists(st.booleans(), max_size=4),
    max_wait_seconds=st.sampled_from([0.0, 0.0, 0.001]),
)
def test_every_item_ends_exactly_once(
    steps: list[Any], failing_starts: list[bool], max_wait_seconds: float
) -> None:
    now = [0.0]
    processor, observer = ScriptedProcessor(failing_starts), CountingObserver()
    batcher: MicroBatcher[Submit, Submit] = MicroBatcher(
        "property",
        {"cpu": processor},
        BatchLimits(4, 5.0, 20.0, max_wait_seconds),
        observer=observer,
        restart_backoff=RestartBackoff(0.0001, 0.001),
        stall_seconds=STALL_SECONDS,
        clock=lambda: now[0],
    )
    batcher.start()
    batcher.wait_until_ready(WAIT_SECONDS)
    accepted: list[tuple[Submit, Submission[Submit]]] = []
    ends: Counter[int] = Counter()
    retry_hints: list[float] = []
    stalled: list[threading.Thread] = []
    pause = threading.Event()

    def count_end(number: int, _: Future[Submit]) -> None:
        ends[number] += 1

    for step in steps:
        match step:
            case Submit():
                try:
                    submission = batcher.submit(
                        step, bucket=step.bucket, cost=step.cost, deadline=step.deadline
                    )
                except (QueueFullError, WorkerUnavailableError) as refusal:
                    retry_hints.append(refusal.retry_after_seconds)
                    continue
                except BatcherClosedError:
                    assert batcher.state in (BatcherState.DRAINING, BatcherState.STOPPED)
                    continue
                submission.future.add_done_callback(partial(count_end, len(accepted)))
                accepted.append((step, submission))
            case Cancel(which) if which < len(accepted):
                accepted[which][1].future.cancel()
            case Step.HOLD:
                processor.hold()
            case Step.RELEASE:
                processor.release()
            case Step.LET_TIME_PASS:
                now[0] += 1.0
            case Step.LET_A_CALL_STALL if max_wait_seconds == 0.0:
                processor.hold()
                for _ in range(20):
                    worker = supervisor_of(batcher).worker
                    if worker is not None and processor.holds(worker):
                        stalled.append(worker)
                        now[0] += STALL_SECONDS
                        supervisor_of(batcher)._watchdog.look()
                        break
                    pause.wait(0.0005)
            case Step.AWAIT_READY:
                processor.release()
                batcher.wait_until_ready(WAIT_SECONDS)
            case Step.AWAIT_ALL if max_wait_seconds == 0.0:
                processor.release()
                for _, submission in accepted:
                    if not submission.future.cancelled():
                        submission.future.exception(WAIT_SECONDS)
            case Step.CLOSE_AT_ONCE:
                batcher.drain(0.0)

    processor.release()
    assert batcher.drain(WAIT_SECONDS)

    assert all(hint > 0 for hint in retry_hints)
    assert all(submission.future.done() for _, submission in accepted)
    assert ends == Counter(range(len(accepted)))
    reasons = [check_end(item, submission.future) for item, submission in accepted]
    assert observer.drops == Counter(reason for reason in reasons if reason)
    for thread in stalled:
        thread.join(WAIT_SECONDS)
    assert processor.abandoned == observer.stalls == len(stalled)
    assert processor.starts == processor.stops + processor.abandoned
    assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)
    for (_, submission), reason in zip(accepted, reasons, strict=True):
        assert (submission.batch_size > 0) == (reason is None)


def test_many_threads_submitting_cancelling_and_waiting_get_their_own_answers() -> None:
    class Doubler:
        def start(self) -> None: ...

        def launch(self, items: Sequence[int]) -> Computed[int]:
            assert 1 <= len(items) <= 8
            if any(item % 97 == 0 for item in items):
                raise ValueError("poison")
            return Computed([item * 2 for item in items])

        def stop(self) -> None: ...

        def abandon(self) -> None: ...

    threads, items_each = 16, 500
    observer = CountingObserver()
    batcher: MicroBatcher[int, int] = MicroBatcher(
        "hammer", {"cpu": Doubler()}, BatchLimits(8, 8.0, 24.0), observer=observer
    )
    batcher.start()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    together = threading.Barrier(threads)
    outcomes: list[Counter[str]] = [Counter() for _ in range(threads)]
    ends: Counter[int] = Counter()
    counting = threading.Lock()

    def count_end(number: int, _: Future[int]) -> None:
        with counting:
            ends[number] += 1

    def hammer(thread: int) -> None:
        together.wait(WAIT_SECONDS)
        for index in range(items_each):
            number = thread * items_each + index
            try:
                submission = batcher.submit(number, bucket=number % 3, cost=1.0 + number % 2)
            except QueueFullError:
                outcomes[thread]["full"] += 1
                continue
            submission.future.add_done_callback(partial(count_end, number))
            if number % 5 == 0 and submission.future.cancel():
                outcomes[thread]["cancelled"] += 1
                continue
            if number % 2 == 0:
                continue  # leaves without waiting, as a disconnected client does
            failure = submission.future.exception(WAIT_SECONDS)
            if number % 97 == 0:
                assert isinstance(failure, ValueError)
            else:
                assert submission.future.result() == number * 2
            outcomes[thread]["answered"] += 1

    failures: list[Exception] = []

    def guarded(thread: int) -> None:
        try:
            hammer(thread)
        except Exception as failure:
            failures.append(failure)

    workers = [threading.Thread(target=guarded, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_SECONDS)
    assert batcher.drain(WAIT_SECONDS)

    assert failures == []
    total = sum(outcomes, Counter())
    assert total["answered"] > 0
    assert set(ends.values()) == {1}
    assert len(ends) + total["full"] == threads * items_each
    assert observer.drops == Counter({DropReason.CANCELLED: total["cancelled"]})
    assert observer.computed + total["cancelled"] == len(ends)
    assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)
