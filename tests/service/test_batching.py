"""Behaviour of the micro-batcher as its callers see it."""

import concurrent.futures
import contextlib
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import pytest

from service.batching import (
    BatcherClosedError,
    BatcherState,
    BatchLimits,
    DeadlineExceededError,
    DropReason,
    ItemOutOfMemoryError,
    ItemTooLargeError,
    MicroBatcher,
    QueueFullError,
    RestartBackoff,
    ResultCountError,
    Submission,
    WorkerDiedError,
    WorkerUnavailableError,
)

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
    """Answers each item with ``("done", item)`` unless ``behave`` says otherwise."""

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

    def process(self, items: Sequence[Any]) -> Any:
        self.batches.append(list(items))
        self._entered.release()
        assert self._open.wait(WAIT_SECONDS)
        return self.behave(list(items))

    def stop(self) -> None:
        self.events.append("stop")
        self.on_stop()

    def release(self) -> None:
        self._open.set()

    @contextlib.contextmanager
    def busy(self, batcher: MicroBatcher[Any, Any]) -> Iterator[Submission[Any]]:
        """Keep the worker inside ``process`` with one item of cost 1 while the block runs."""
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
        self.queue: list[tuple[int, float]] = []
        self.waits: list[float] = []
        self.finished: list[tuple[int, float, float]] = []
        self.drops: list[DropReason] = []
        self.restarts = 0

    def queue_changed(self, depth: int, cost: float) -> None:
        self.queue.append((depth, cost))

    def queue_waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def batch_finished(self, size: int, cost: float, seconds: float) -> None:
        self.finished.append((size, cost, seconds))

    def item_dropped(self, reason: DropReason) -> None:
        self.drops.append(reason)

    def worker_restarted(self) -> None:
        self.restarts += 1


MakeBatcher = Callable[..., MicroBatcher[Any, Any]]


@pytest.fixture
def make_batcher() -> Iterator[MakeBatcher]:
    made: list[tuple[MicroBatcher[Any, Any], RecordingProcessor]] = []

    def make(
        processor: RecordingProcessor,
        limits: BatchLimits = ROOMY,
        *,
        ready: bool = True,
        **rest: Any,
    ) -> MicroBatcher[Any, Any]:
        rest.setdefault("restart_backoff", RestartBackoff(0.001, 0.001))
        batcher: MicroBatcher[Any, Any] = MicroBatcher("test", processor, limits, **rest)
        made.append((batcher, processor))
        batcher.start()
        if ready:
            assert batcher.wait_until_ready(WAIT_SECONDS)
        return batcher

    yield make
    for batcher, processor in made:
        processor.release()
        assert batcher.drain(WAIT_SECONDS)
        assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)


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


class TestGathering:
    def test_an_idle_worker_computes_a_lone_item_without_waiting_for_company(
        self, make_batcher: MakeBatcher
    ) -> None:
        batcher = make_batcher(RecordingProcessor(), clock=ManualClock())
        assert result(batcher.submit("a", bucket="bucket", cost=1.0)) == ("done", "a")

    def test_items_arriving_during_a_batch_form_the_next_one(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            submissions = submit_all(batcher, "abc")
        assert [result(s) for s in submissions] == [("done", item) for item in "abc"]
        assert processor.batches == [["blocker"], ["a", "b", "c"]]

    def test_a_batch_stops_at_the_item_limit(self, make_batcher: MakeBatcher) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, BatchLimits(2, 100.0, 100.0))
        with processor.busy(batcher):
            submit_all(batcher, "abcde")
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches[1:] == [["a", "b"], ["c", "d"], ["e"]]

    def test_an_item_that_does_not_fit_leads_the_next_batch_and_is_not_overtaken(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, BatchLimits(8, 5.0, 100.0))
        with processor.busy(batcher):
            for item, cost in (("a", 3.0), ("b", 3.0), ("c", 1.0), ("d", 2.0)):
                batcher.submit(item, bucket="bucket", cost=cost)
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches[1:] == [["a"], ["b", "c"], ["d"]]

    def test_an_item_over_the_batch_budget_runs_alone(self, make_batcher: MakeBatcher) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, BatchLimits(8, 5.0, 100.0))
        with processor.busy(batcher):
            for item, cost in (("a", 1.0), ("huge", 50.0), ("b", 1.0)):
                batcher.submit(item, bucket="bucket", cost=cost)
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches[1:] == [["a"], ["huge"], ["b"]]

    def test_buckets_take_turns_and_never_mix(self, make_batcher: MakeBatcher) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, BatchLimits(2, 100.0, 100.0))
        with processor.busy(batcher):
            submit_all(batcher, ["a1", "a2", "a3", "a4", "a5"], bucket="a")
            submit_all(batcher, ["b1", "b2", "b3"], bucket="b")
            submit_all(batcher, ["c1"], bucket="c")
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches[1:] == [
            ["a1", "a2"], ["b1", "b2"], ["c1"], ["a3", "a4"], ["b3"], ["a5"]
        ]  # fmt: skip

    def test_a_bucket_that_is_always_refilled_does_not_starve_another(
        self, make_batcher: MakeBatcher
    ) -> None:
        def refill(items: list[Any]) -> list[Any]:
            if items != ["patient"] and len(processor.batches) < 20:
                submit_all(batcher, items, bucket="greedy")
            return items

        processor = RecordingProcessor(refill)
        batcher = make_batcher(processor, BatchLimits(1, 100.0, 100.0))
        with processor.busy(batcher):
            submit_all(batcher, ["g1", "g2", "g3"], bucket="greedy")
            patient = batcher.submit("patient", bucket="patient", cost=1.0)
        assert result(patient) == "patient"
        assert processor.batches.index(["patient"]) == 2


class TestWaitingForABatchToFill:
    LIMITS = BatchLimits(2, 100.0, 100.0, max_wait_seconds=10.0)

    def test_an_unfilled_batch_waits_from_the_arrival_of_its_oldest_item(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock = ManualClock()
        processor = RecordingProcessor()
        batcher = make_batcher(processor, BatchLimits(3, 100.0, 100.0, 10.0), clock=clock)
        first = batcher.submit("a", bucket="bucket", cost=1.0)
        clock.advance(9.0)
        batcher.submit("b", bucket="bucket", cost=1.0)
        clock.advance(1.0)
        batcher.submit("other", bucket="other", cost=1.0)
        result(first)
        assert processor.batches == [["a", "b"]]
        assert first.queue_seconds == 10.0

    def test_a_full_batch_does_not_wait(self, make_batcher: MakeBatcher) -> None:
        batcher = make_batcher(RecordingProcessor(), self.LIMITS, clock=ManualClock())
        submissions = submit_all(batcher, "ab")
        assert [result(s) for s in submissions] == [("done", "a"), ("done", "b")]
        assert [s.batch_size for s in submissions] == [2, 2]

    def test_a_full_batch_passes_a_bucket_that_is_still_waiting(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, self.LIMITS, clock=ManualClock())
        waiting = batcher.submit("waiting", bucket="waiting", cost=1.0)
        result(submit_all(batcher, "ab")[-1])
        assert processor.batches == [["a", "b"]]
        assert not waiting.future.done()

    def test_the_wait_ends_by_itself(self, make_batcher: MakeBatcher) -> None:
        batcher = make_batcher(RecordingProcessor(), BatchLimits(2, 100.0, 100.0, 0.02))
        lone = batcher.submit("a", bucket="bucket", cost=1.0)
        assert result(lone) == ("done", "a")
        assert lone.queue_seconds >= 0.02

    def test_an_item_whose_deadline_falls_within_the_wait_is_not_held_back(
        self, make_batcher: MakeBatcher
    ) -> None:
        batcher = make_batcher(RecordingProcessor(), self.LIMITS, clock=ManualClock())
        assert result(batcher.submit("a", bucket="bucket", cost=1.0, deadline=5.0)) == ("done", "a")

    def test_draining_does_not_wait(self, make_batcher: MakeBatcher) -> None:
        batcher = make_batcher(RecordingProcessor(), self.LIMITS, clock=ManualClock())
        lone = batcher.submit("a", bucket="bucket", cost=1.0)
        assert batcher.drain(WAIT_SECONDS)
        assert result(lone) == ("done", "a")


class TestAdmission:
    LIMITS = BatchLimits(8, 100.0, max_queue_cost=10.0)

    def test_the_queue_is_bounded_by_cost_and_items_in_flight_do_not_count(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, self.LIMITS)
        with processor.busy(batcher):
            submit_all(batcher, "ab", cost=5.0)
            assert (batcher.queue_depth, batcher.queue_cost) == (2, 10.0)
            with pytest.raises(QueueFullError):
                batcher.submit("c", bucket="bucket", cost=0.5)
            assert (batcher.queue_depth, batcher.queue_cost) == (2, 10.0)
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches == [["blocker"], ["a", "b"]]

    def test_an_item_larger_than_the_whole_queue_is_refused_for_good(
        self, make_batcher: MakeBatcher
    ) -> None:
        batcher = make_batcher(RecordingProcessor(), self.LIMITS)
        with pytest.raises(ItemTooLargeError) as caught:
            batcher.submit("a", bucket="bucket", cost=10.5)
        assert (caught.value.cost, caught.value.max_queue_cost) == (10.5, 10.0)

    @pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_cost_that_would_break_the_accounts_is_refused(
        self, make_batcher: MakeBatcher, cost: float
    ) -> None:
        batcher = make_batcher(RecordingProcessor(), self.LIMITS)
        with pytest.raises(ValueError, match="cost"):
            batcher.submit("a", bucket="bucket", cost=cost)

    def test_cancelling_a_queued_item_makes_room_at_once(self, make_batcher: MakeBatcher) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, self.LIMITS)
        with processor.busy(batcher):
            (queued,) = submit_all(batcher, "a", cost=10.0)
            assert queued.future.cancel()
            assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)
            submit_all(batcher, "b", cost=10.0)
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches == [["blocker"], ["b"]]

    def test_expired_items_make_room_for_new_ones(self, make_batcher: MakeBatcher) -> None:
        clock, processor, observer = ManualClock(), RecordingProcessor(), RecordingObserver()
        batcher = make_batcher(processor, self.LIMITS, clock=clock, observer=observer)
        with processor.busy(batcher):
            (stale,) = submit_all(batcher, "a", cost=10.0, deadline=3.0)
            clock.advance(4.0)
            (fresh,) = submit_all(batcher, "b", cost=10.0)
            assert isinstance(error(stale), DeadlineExceededError)
        assert result(fresh) == ("done", "b")
        assert observer.drops == [DropReason.DEADLINE]

    def test_room_can_be_asked_for_without_taking_it(self, make_batcher: MakeBatcher) -> None:
        clock, processor = ManualClock(), RecordingProcessor()
        batcher = make_batcher(processor, self.LIMITS, clock=clock)
        with processor.busy(batcher):
            batcher.check_room(10.0)
            assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)
            (stale,) = submit_all(batcher, "a", cost=10.0, deadline=3.0)
            with pytest.raises(QueueFullError):
                batcher.check_room(1.0)
            with pytest.raises(ItemTooLargeError):
                batcher.check_room(10.5)
            clock.advance(4.0)
            batcher.check_room(1.0)
            assert isinstance(error(stale), DeadlineExceededError)
        assert batcher.drain(WAIT_SECONDS)
        with pytest.raises(BatcherClosedError):
            batcher.check_room(1.0)
        assert processor.batches == [["blocker"]]

    def test_the_retry_hint_is_one_second_before_anything_was_measured(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, self.LIMITS)
        with processor.busy(batcher):
            submit_all(batcher, "a", cost=10.0)
            with pytest.raises(QueueFullError) as caught:
                batcher.submit("b", bucket="bucket", cost=1.0)
        assert caught.value.retry_after_seconds == 1.0

    def test_the_retry_hint_is_the_time_to_make_room_at_the_measured_rate(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock = ManualClock()

        def take_two_seconds(items: list[Any]) -> list[Any]:
            clock.advance(2.0)
            return items

        processor = RecordingProcessor(take_two_seconds)
        batcher = make_batcher(processor, self.LIMITS, clock=clock)
        result(batcher.submit("a", bucket="bucket", cost=8.0))  # so 4 units of cost per second
        with processor.busy(batcher):
            submit_all(batcher, "bc", cost=5.0)
            hints = []
            for cost in (3.0, 7.0):
                with pytest.raises(QueueFullError) as caught:
                    batcher.submit("d", bucket="bucket", cost=cost)
                hints.append(caught.value.retry_after_seconds)
        # The 1 in flight must finish, and 3 or 7 must leave the full queue.
        assert hints == [pytest.approx((1 + 3) / 4), pytest.approx((1 + 7) / 4)]

    def test_what_by_the_measured_rate_would_be_late_is_refused_at_once(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock = ManualClock()

        def take_two_seconds(items: list[Any]) -> list[Any]:
            clock.advance(2.0)
            return items

        processor = RecordingProcessor(take_two_seconds)
        batcher = make_batcher(processor, self.LIMITS, clock=clock)
        result(batcher.submit("a", bucket="bucket", cost=8.0))  # so 4 units of cost per second
        with processor.busy(batcher):
            (waiting,) = submit_all(batcher, "b", cost=5.0)
            # 1 is being computed, 5 wait, and 2 of its own: 2 s, and half of that again for safety.
            assert clock.now == 2.0
            batcher.check_room(2.0, deadline=5.0)
            with pytest.raises(QueueFullError, match="no time") as caught:
                batcher.submit("late", bucket="bucket", cost=2.0, deadline=4.9)
            assert caught.value.retry_after_seconds == pytest.approx(0.1)
            with pytest.raises(QueueFullError, match="no time"):
                batcher.check_room(2.0, deadline=4.9)
            submit_all(batcher, "c", cost=2.0, deadline=5.0)
        assert result(waiting) == "b"
        assert batcher.drain(WAIT_SECONDS)
        assert "late" not in [item for batch in processor.batches for item in batch]

    def test_an_idle_worker_tries_whatever_the_rate_was(self, make_batcher: MakeBatcher) -> None:
        clock = ManualClock()

        def be_slow_once(items: list[Any]) -> list[Any]:
            clock.advance(100.0 if items == ["slow"] else 0.0)
            return items

        processor = RecordingProcessor(be_slow_once)
        batcher = make_batcher(processor, self.LIMITS, clock=clock)
        result(batcher.submit("slow", bucket="bucket", cost=1.0))
        batcher.submit("next", bucket="bucket", cost=1.0, deadline=clock.now + 1.0)
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches == [["slow"], ["next"]]


class TestDeadlines:
    def test_an_expired_item_is_dropped_and_never_computed(self, make_batcher: MakeBatcher) -> None:
        clock, processor, observer = ManualClock(), RecordingProcessor(), RecordingObserver()
        batcher = make_batcher(processor, clock=clock, observer=observer)
        with processor.busy(batcher):
            late = batcher.submit("late", bucket="bucket", cost=1.0, deadline=7.0)
            kept = batcher.submit("kept", bucket="bucket", cost=1.0, deadline=7.5)
            clock.advance(7.0)
        failure = error(late)
        assert isinstance(failure, DeadlineExceededError)
        assert failure.waited_seconds == 7.0
        assert (late.queue_seconds, late.compute_seconds, late.batch_size) == (7.0, 0.0, 0)
        assert result(kept) == ("done", "kept")
        assert processor.batches == [["blocker"], ["kept"]]
        assert observer.drops == [DropReason.DEADLINE]

    def test_expired_items_of_every_bucket_fail_before_the_next_batch_is_computed(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock = ManualClock()
        expired_on_entry: list[bool] = []
        processor = RecordingProcessor()
        batcher = make_batcher(processor, clock=clock)
        with processor.busy(batcher):
            late = [batcher.submit(n, bucket=n, cost=1.0, deadline=1.0) for n in range(3)]
            batcher.submit("kept", bucket="kept", cost=1.0)
            clock.advance(1.0)

            def note_expired(items: list[Any]) -> list[Any]:
                if items == ["kept"]:
                    expired_on_entry.extend(s.future.done() for s in late)
                return items

            processor.behave = note_expired
        assert batcher.drain(WAIT_SECONDS)
        assert expired_on_entry == [True, True, True]

    def test_an_item_that_expires_during_a_failed_attempt_is_not_retried(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock, observer = ManualClock(), RecordingObserver()

        def fail_slowly_together(items: list[Any]) -> list[Any]:
            if len(items) > 1:
                clock.advance(5.0)
                raise MemoryError
            return items

        processor = RecordingProcessor(fail_slowly_together)
        batcher = make_batcher(processor, clock=clock, observer=observer)
        with processor.busy(batcher):
            hasty = batcher.submit("hasty", bucket="bucket", cost=1.0, deadline=3.0)
            patient = batcher.submit("patient", bucket="bucket", cost=1.0)
        assert isinstance(error(hasty), DeadlineExceededError)
        assert result(patient) == "patient"
        assert processor.batches[1:] == [["hasty", "patient"], ["patient"]]
        assert observer.drops == [DropReason.DEADLINE]


class TestCancellation:
    def test_a_cancelled_item_is_never_computed_and_is_counted_once(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor, observer = RecordingProcessor(), RecordingObserver()
        batcher = make_batcher(processor, observer=observer)
        with processor.busy(batcher):
            submissions = submit_all(batcher, "abc")
            assert submissions[1].future.cancel()
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches[1:] == [["a", "c"]]
        assert observer.drops == [DropReason.CANCELLED]

    def test_waiters_on_a_cancelled_future_wake_while_the_worker_is_busy(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            (queued,) = submit_all(batcher, "a")
            queued.future.cancel()
            done, _ = concurrent.futures.wait([queued.future], timeout=WAIT_SECONDS)
            assert done == {queued.future}

    def test_an_item_being_computed_can_no_longer_be_cancelled(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor)
        with processor.busy(batcher) as running:
            assert not running.future.cancel()
        assert result(running) == ("done", "blocker")

    def test_futures_their_holder_resolved_do_not_hurt_the_worker(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor)
        with processor.busy(batcher) as running:
            queued, neighbour = submit_all(batcher, "ab")
            running.future.set_result("mine")
            queued.future.set_exception(TimeoutError())
        assert result(neighbour) == ("done", "b")
        assert result(running) == "mine"
        assert isinstance(error(queued), TimeoutError)
        assert processor.batches == [["blocker"], ["b"]]
        assert processor.events == ["start"]


class TestFailingBatches:
    def test_one_poisoned_item_of_eight_fails_alone(self, make_batcher: MakeBatcher) -> None:
        def choke(items: list[Any]) -> list[Any]:
            if 5 in items:
                raise ValueError("poison")
            return items

        processor = RecordingProcessor(choke)
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            submissions = submit_all(batcher, range(8))
        poisoned = submissions.pop(5)
        assert [result(s) for s in submissions] == [0, 1, 2, 3, 4, 6, 7]
        failure = error(poisoned)
        assert isinstance(failure, ValueError)
        assert str(failure) == "poison"
        assert processor.batches[1:] == [
            [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]
        ]  # fmt: skip
        assert [s.batch_size for s in submissions] == [4, 4, 4, 4, 1, 2, 2]
        assert poisoned.batch_size == 1

    def test_when_every_item_fails_the_number_of_attempts_is_bounded(
        self, make_batcher: MakeBatcher
    ) -> None:
        def fail(items: list[Any]) -> list[Any]:
            raise ValueError(items)

        processor = RecordingProcessor(fail)
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            submissions = submit_all(batcher, range(8))
        assert [str(error(s)) for s in submissions] == [f"[{n}]" for n in range(8)]
        assert len(processor.batches[1:]) == 2 * 8 - 1

    def test_a_batch_too_large_for_memory_is_halved_until_it_fits(
        self, make_batcher: MakeBatcher
    ) -> None:
        def fit_two(items: list[Any]) -> list[Any]:
            if len(items) > 2 or "huge" in items:
                raise MemoryError
            return items

        processor = RecordingProcessor(fit_two)
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            submissions = submit_all(batcher, ["a", "b", "c", "huge", "d", "e", "f"])
        huge = submissions.pop(3)
        assert [result(s) for s in submissions] == ["a", "b", "c", "d", "e", "f"]
        failure = error(huge)
        assert isinstance(failure, ItemOutOfMemoryError)
        assert isinstance(failure.__cause__, MemoryError)
        assert processor.batches[1:] == [
            ["a", "b", "c", "huge", "d", "e", "f"],
            ["a", "b", "c"], ["a"], ["b", "c"],
            ["huge", "d", "e", "f"], ["huge", "d"], ["huge"], ["d"], ["e", "f"],
        ]  # fmt: skip

    def test_what_counts_as_out_of_memory_can_be_told(self, make_batcher: MakeBatcher) -> None:
        def fail(items: list[Any]) -> list[Any]:
            raise RuntimeError("device out of memory" if items == ["huge"] else "other")

        batcher = make_batcher(
            RecordingProcessor(fail), is_out_of_memory=lambda failure: "memory" in str(failure)
        )
        huge, other = submit_all(batcher, ["huge", "other"])
        assert isinstance(error(huge), ItemOutOfMemoryError)
        assert type(error(other)) is RuntimeError

    def test_the_failed_attempt_has_let_go_of_its_memory_when_the_retry_begins(
        self, make_batcher: MakeBatcher
    ) -> None:
        class Workspace:
            pass

        earlier: list[weakref.ref[Workspace]] = []
        still_held: list[bool] = []

        def allocate() -> None:
            workspace = Workspace()
            earlier.append(weakref.ref(workspace))
            raise MemoryError

        def fit_one(items: list[Any]) -> list[Any]:
            still_held.extend(ref() is not None for ref in earlier)
            workspace = Workspace()
            earlier.append(weakref.ref(workspace))
            if len(items) > 1:
                try:
                    allocate()
                except MemoryError as failure:
                    raise ValueError("the slower way does not fit either") from failure
            return items

        processor = RecordingProcessor(fit_one)
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            submissions = submit_all(batcher, "ab")
        assert [result(s) for s in submissions] == ["a", "b"]
        assert still_held
        assert not any(still_held)

    @pytest.mark.parametrize("returned", [[], ["one"], ["one", "two", "three"]])
    def test_a_wrong_number_of_results_fails_every_item_of_the_batch(
        self, make_batcher: MakeBatcher, returned: list[str]
    ) -> None:
        processor = RecordingProcessor(lambda items: items)
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            submissions = submit_all(batcher, "ab")
            processor.behave = lambda items: items if items == ["blocker"] else returned
        failures = [error(s) for s in submissions]
        for failure in failures:
            assert isinstance(failure, ResultCountError)
            assert (failure.expected, failure.received) == (2, len(returned))
        # One shared exception would collect the tracebacks of every thread that raises it.
        assert failures[0] is not failures[1]
        assert processor.batches[1:] == [["a", "b"]]

    def test_a_processor_that_returns_nothing_fails_its_items_but_not_the_worker(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor(lambda items: None)
        batcher = make_batcher(processor)
        assert isinstance(error(batcher.submit("a", bucket="bucket", cost=1.0)), TypeError)
        assert batcher.ready
        assert processor.events == ["start"]

    def test_an_exception_among_the_results_fails_that_item_alone(
        self, make_batcher: MakeBatcher
    ) -> None:
        refusal = ValueError("b")
        processor = RecordingProcessor(lambda items: [refusal if i == "b" else i for i in items])
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            first, second, third = submit_all(batcher, "abc")
        assert (result(first), error(second), result(third)) == ("a", refusal, "c")
        assert processor.batches[1:] == [["a", "b", "c"]]


class TestMemory:
    class Image:
        pass

    @pytest.mark.parametrize("outcome", ["result", "error", "death"])
    def test_an_idle_batcher_and_the_futures_it_answered_hold_no_items(
        self, make_batcher: MakeBatcher, outcome: str
    ) -> None:
        def behave(items: list[Any]) -> list[Any]:
            if outcome == "error":
                raise ValueError(outcome)
            if outcome == "death":
                raise SystemExit
            return [None for _ in items]

        processor = RecordingProcessor(behave)
        batcher = make_batcher(processor)
        images = [self.Image() for _ in range(3)]
        gone = [threading.Event() for _ in images]
        for image, event in zip(images, gone, strict=True):
            weakref.finalize(image, event.set)
        submissions = submit_all(batcher, images)
        del images[:]
        del image
        for submission in submissions:
            error(submission)
        processor.batches.clear()
        # A dead worker's last frames may form a cycle, which only the collector takes apart.
        for _ in range(int(WAIT_SECONDS / 0.05)):
            gc.collect()
            if all(event.wait(0.05) for event in gone):
                break
        assert all(event.is_set() for event in gone)


class TestDeadWorker:
    @staticmethod
    def die_on_poison(items: list[Any]) -> list[Any]:
        if "poison" in items:
            raise SystemExit(3)
        return items

    def test_a_death_fails_every_live_item_and_turns_readiness_off_until_the_restart(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor, observer = RecordingProcessor(self.die_on_poison), RecordingObserver()
        batcher = make_batcher(processor, BatchLimits(2, 100.0, 100.0), observer=observer)
        restart_allowed = threading.Event()
        processor.on_start = lambda: assert_set(restart_allowed)
        with processor.busy(batcher):
            submissions = submit_all(batcher, ["poison", "neighbour", "queued"])
            submissions += submit_all(batcher, ["elsewhere"], bucket="elsewhere")
        failures = [error(s) for s in submissions]
        assert [type(failure) for failure in failures] == [WorkerDiedError] * 4
        assert all(isinstance(f.__cause__, SystemExit) for f in failures if f)
        assert not batcher.ready
        assert batcher.state is BatcherState.RESTARTING
        assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)
        with pytest.raises(WorkerUnavailableError) as caught:
            batcher.submit("early", bucket="bucket", cost=1.0)
        assert isinstance(caught.value.__cause__, SystemExit)
        assert caught.value.retry_after_seconds == 1.0

        restart_allowed.set()
        assert batcher.wait_until_ready(WAIT_SECONDS)
        assert result(batcher.submit("later", bucket="bucket", cost=1.0)) == "later"
        assert observer.drops == [DropReason.WORKER_DIED] * 4
        assert observer.restarts == 1
        assert processor.events == ["start", "stop", "start"]

    def test_live_items_fail_before_the_dead_worker_is_cleaned_up(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor(self.die_on_poison)
        batcher = make_batcher(processor)
        cleaned_up = threading.Event()
        processor.on_stop = lambda: assert_set(cleaned_up)
        poison = batcher.submit("poison", bucket="bucket", cost=1.0)
        assert isinstance(error(poison), WorkerDiedError)
        assert not batcher.ready
        cleaned_up.set()
        assert batcher.wait_until_ready(WAIT_SECONDS)

    def test_the_replacement_runs_on_a_fresh_thread(self, make_batcher: MakeBatcher) -> None:
        processor = RecordingProcessor(self.die_on_poison)
        batcher = make_batcher(processor)
        error(batcher.submit("poison", bucket="bucket", cost=1.0))
        assert batcher.wait_until_ready(WAIT_SECONDS)
        first, second = processor.threads
        assert first is not second
        first.join(WAIT_SECONDS)
        assert not first.is_alive()

    def test_a_start_that_keeps_failing_is_retried_and_never_reported_ready(
        self, make_batcher: MakeBatcher
    ) -> None:
        attempts_left = [3]
        ready_during_start: list[bool] = []

        def fail_three_times() -> None:
            ready_during_start.append(batcher.ready)
            if attempts_left[0]:
                attempts_left[0] -= 1
                raise OSError("no device")
            assert_set(finish_starting)

        finish_starting = threading.Event()
        processor, observer = RecordingProcessor(), RecordingObserver()
        processor.on_start = fail_three_times
        batcher: MicroBatcher[Any, Any] = MicroBatcher(
            "test",
            processor,
            ROOMY,
            observer=observer,
            restart_backoff=RestartBackoff(0.001, 0.001),
        )
        batcher.start()
        with pytest.raises(WorkerUnavailableError):
            batcher.submit("early", bucket="bucket", cost=1.0)
        finish_starting.set()
        assert batcher.wait_until_ready(WAIT_SECONDS)
        assert ready_during_start == [False] * 4
        assert observer.restarts == 3
        assert result(batcher.submit("a", bucket="bucket", cost=1.0)) == ("done", "a")
        assert batcher.drain(WAIT_SECONDS)
        # A start that failed has nothing to stop.
        assert processor.events == ["start", "start", "start", "start", "stop"]

    def test_a_submission_refused_while_starts_fail_says_why(
        self, make_batcher: MakeBatcher
    ) -> None:
        def fail() -> None:
            raise OSError("no device")

        processor = RecordingProcessor()
        processor.on_start = fail
        slow = RestartBackoff(3600.0, 3600.0)
        batcher = make_batcher(processor, ready=False, restart_backoff=slow)
        wait_for_state(batcher, BatcherState.RESTARTING)
        assert not batcher.wait_until_ready(0.0)
        with pytest.raises(WorkerUnavailableError) as caught:
            batcher.submit("a", bucket="bucket", cost=1.0)
        assert str(caught.value.__cause__) == "no device"
        assert caught.value.retry_after_seconds == 3600.0
        # And a drain does not wait for the backoff to end.
        assert batcher.drain(WAIT_SECONDS)
        assert processor.events == ["start"]

    def test_the_backoff_starts_over_once_a_batch_was_computed(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor(self.die_on_poison)

        class AnHourFromTheSecond(RestartBackoff):
            def delay_seconds(self, consecutive_failures: int) -> float:
                return 0.0 if consecutive_failures == 1 else 3600.0

        batcher = make_batcher(processor, restart_backoff=AnHourFromTheSecond())
        for _ in range(3):
            error(batcher.submit("poison", bucket="bucket", cost=1.0))
            assert batcher.wait_until_ready(WAIT_SECONDS)
            assert result(batcher.submit("a", bucket="bucket", cost=1.0)) == "a"
        assert processor.events.count("start") == 4

    def test_a_death_while_draining_fails_the_rest_and_is_not_followed_by_a_restart(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor, observer = RecordingProcessor(self.die_on_poison), RecordingObserver()
        batcher = make_batcher(processor, BatchLimits(1, 100.0, 100.0), observer=observer)
        with processor.busy(batcher), concurrent.futures.ThreadPoolExecutor(1) as pool:
            poison, queued = submit_all(batcher, ["poison", "queued"])
            drained = pool.submit(batcher.drain, WAIT_SECONDS)
            wait_for_state(batcher, BatcherState.DRAINING)
            processor.release()
            assert drained.result(WAIT_SECONDS)
        assert isinstance(error(poison), WorkerDiedError)
        assert isinstance(error(queued), WorkerDiedError)
        assert observer.restarts == 0
        assert processor.events == ["start", "stop"]

    def test_without_a_new_thread_the_batcher_has_failed_for_good(
        self, make_batcher: MakeBatcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        processor = RecordingProcessor(self.die_on_poison)
        batcher = make_batcher(processor)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        poison = batcher.submit("poison", bucket="bucket", cost=1.0)
        assert isinstance(error(poison), WorkerDiedError)
        assert not batcher.wait_until_ready(WAIT_SECONDS)
        wait_for_state(batcher, BatcherState.FAILED)
        with pytest.raises(WorkerUnavailableError):
            batcher.submit("a", bucket="bucket", cost=1.0)
        assert batcher.drain(WAIT_SECONDS)
        assert batcher.state is BatcherState.STOPPED

    def test_a_thread_that_vanished_without_a_word_is_not_reported_ready(
        self, make_batcher: MakeBatcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As in the child of a fork, which inherits the batcher but not its thread.
        batcher = make_batcher(RecordingProcessor())
        with monkeypatch.context() as patched:
            patched.setattr(batcher._supervisor, "_worker", threading.Thread())
            assert not batcher.ready
            with pytest.raises(WorkerUnavailableError):
                batcher.submit("a", bucket="bucket", cost=1.0)

    def test_the_death_is_logged(
        self, make_batcher: MakeBatcher, caplog: pytest.LogCaptureFixture
    ) -> None:
        batcher = make_batcher(RecordingProcessor(self.die_on_poison))
        with caplog.at_level(logging.ERROR, logger="service.batching"):
            error(batcher.submit("poison", bucket="bucket", cost=1.0))
            assert batcher.wait_until_ready(WAIT_SECONDS)
        (record,) = caplog.records
        assert record.exc_info
        assert record.exc_info[0] is SystemExit


class TestDraining:
    def test_queued_work_is_finished_and_new_work_refused(self, make_batcher: MakeBatcher) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, BatchLimits(2, 100.0, 100.0))
        with processor.busy(batcher), concurrent.futures.ThreadPoolExecutor(1) as pool:
            submissions = submit_all(batcher, "abc")
            drained = pool.submit(batcher.drain, WAIT_SECONDS)
            wait_for_state(batcher, BatcherState.DRAINING)
            with pytest.raises(BatcherClosedError):
                batcher.submit("d", bucket="bucket", cost=1.0)
            assert not batcher.ready
            processor.release()
            assert drained.result(WAIT_SECONDS)
        assert [result(s) for s in submissions] == [("done", item) for item in "abc"]
        assert batcher.state is BatcherState.STOPPED
        assert processor.events == ["start", "stop"]
        assert not processor.threads[0].is_alive()

    def test_items_not_finished_in_time_fail_and_their_late_results_are_discarded(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor, observer = RecordingProcessor(), RecordingObserver()
        batcher = make_batcher(processor, observer=observer)
        with processor.busy(batcher) as running:
            (queued,) = submit_all(batcher, "a")
            assert not batcher.drain(0.0)
            assert isinstance(error(running), BatcherClosedError)
            assert isinstance(error(queued), BatcherClosedError)
            assert batcher.state is BatcherState.DRAINING
            assert processor.events == ["start"]
        assert batcher.drain(WAIT_SECONDS)
        assert isinstance(error(running), BatcherClosedError)
        assert (running.compute_seconds, running.batch_size) == (0.0, 0)
        assert processor.batches == [["blocker"]]
        assert processor.events == ["start", "stop"]
        assert observer.drops == [DropReason.CLOSED] * 2

    def test_an_abandoned_batch_is_not_retried(self, make_batcher: MakeBatcher) -> None:
        def abandon_and_fail(items: list[Any]) -> list[Any]:
            if len(items) == 2:
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    assert not pool.submit(batcher.drain, 0.0).result(WAIT_SECONDS)
                raise ValueError
            return items

        processor = RecordingProcessor(abandon_and_fail)
        batcher = make_batcher(processor)
        with processor.busy(batcher):
            submissions = submit_all(batcher, "ab")
        assert [type(error(s)) for s in submissions] == [BatcherClosedError] * 2
        assert batcher.drain(WAIT_SECONDS)
        assert processor.batches == [["blocker"], ["a", "b"]]

    @pytest.mark.parametrize("failure", [OSError("stuck"), SystemExit(1)])
    def test_a_failing_stop_is_logged_and_does_not_keep_the_worker_alive(
        self,
        make_batcher: MakeBatcher,
        caplog: pytest.LogCaptureFixture,
        failure: BaseException,
    ) -> None:
        def fail() -> None:
            raise failure

        processor = RecordingProcessor()
        processor.on_stop = fail
        batcher = make_batcher(processor)
        with caplog.at_level(logging.ERROR, logger="service.batching"):
            assert batcher.drain(WAIT_SECONDS)
        assert processor.events == ["start", "stop"]
        assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [failure]

    def test_a_worker_that_dies_twice_over_is_still_replaced(
        self, make_batcher: MakeBatcher
    ) -> None:
        def die(*_: object) -> None:
            raise SystemExit

        processor = RecordingProcessor(die)
        processor.on_stop = die
        batcher = make_batcher(processor)
        error(batcher.submit("a", bucket="bucket", cost=1.0))
        assert batcher.wait_until_ready(WAIT_SECONDS)
        assert processor.events == ["start", "stop", "start"]

    def test_a_successful_drain_leaves_no_thread_behind(
        self, make_batcher: MakeBatcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor)
        end_life = batcher._supervisor._end_life

        def end_life_and_linger() -> None:
            end_life()
            threading.Event().wait(0.05)

        monkeypatch.setattr(batcher._supervisor, "_end_life", end_life_and_linger)
        assert batcher.drain(WAIT_SECONDS)
        assert not processor.threads[0].is_alive()

    def test_a_second_drain_returns_at_once(self, make_batcher: MakeBatcher) -> None:
        batcher = make_batcher(RecordingProcessor())
        assert batcher.drain(WAIT_SECONDS)
        assert batcher.drain(0.0)

    def test_a_batcher_never_started_drains_and_then_cannot_start(self) -> None:
        processor = RecordingProcessor()
        batcher: MicroBatcher[Any, Any] = MicroBatcher("test", processor, ROOMY)
        with pytest.raises(WorkerUnavailableError):
            batcher.submit("a", bucket="bucket", cost=1.0)
        assert batcher.drain(0.0)
        with pytest.raises(RuntimeError, match="stopped"):
            batcher.start()
        assert processor.events == []

    def test_a_batcher_cannot_start_twice(self, make_batcher: MakeBatcher) -> None:
        batcher = make_batcher(RecordingProcessor())
        with pytest.raises(RuntimeError, match="ready"):
            batcher.start()

    def test_the_worker_refuses_to_wait_for_itself(self, make_batcher: MakeBatcher) -> None:
        def drain(items: list[Any]) -> list[Any]:
            batcher.drain(WAIT_SECONDS)
            return items

        batcher = make_batcher(RecordingProcessor(drain))
        failure = error(batcher.submit("a", bucket="bucket", cost=1.0))
        assert isinstance(failure, RuntimeError)
        assert batcher.ready

    def test_the_worker_is_no_daemon_even_when_a_daemon_starts_it(self) -> None:
        processor = RecordingProcessor()
        batcher: MicroBatcher[Any, Any] = MicroBatcher("test", processor, ROOMY)
        starter = threading.Thread(target=batcher.start, daemon=True)
        starter.start()
        assert batcher.wait_until_ready(WAIT_SECONDS)
        assert not processor.threads[0].daemon
        assert batcher.drain(WAIT_SECONDS)

    def test_a_drained_batcher_does_not_keep_the_interpreter_from_exiting(self) -> None:
        program = """
from service.batching import BatchLimits, MicroBatcher
class Echo:
    def start(self): pass
    def process(self, items): return items
    def stop(self): print("stopped")
batcher = MicroBatcher("echo", Echo(), BatchLimits(2, 2.0, 2.0))
batcher.start()
assert batcher.wait_until_ready(10)
print(batcher.submit("hello", bucket=0, cost=1.0).future.result(10))
assert batcher.drain(10)
"""
        finished = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
        )
        assert finished.stdout.split() == ["hello", "stopped"]


class TestReporting:
    def test_a_submission_tells_how_long_it_waited_and_computed_and_in_what_company(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock = ManualClock()

        def take_half_a_second(items: list[Any]) -> list[Any]:
            clock.advance(0.5)
            return items

        processor = RecordingProcessor(take_half_a_second)
        batcher = make_batcher(processor, clock=clock)
        with processor.busy(batcher):
            first = batcher.submit("a", bucket="bucket", cost=1.0)
            clock.advance(2.0)
            second = batcher.submit("b", bucket="bucket", cost=1.0)
        assert result(second) == "b"
        assert (first.queue_seconds, first.compute_seconds, first.batch_size) == (2.5, 0.5, 2)
        assert (second.queue_seconds, second.compute_seconds, second.batch_size) == (0.5, 0.5, 2)

    def test_the_timings_are_complete_when_the_future_is_done(
        self, make_batcher: MakeBatcher
    ) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor)
        seen: list[int] = []
        with processor.busy(batcher) as running:
            running.future.add_done_callback(lambda _: seen.append(running.batch_size))
        assert batcher.drain(WAIT_SECONDS)
        assert seen == [1]

    def test_the_observer_learns_of_waits_batches_and_queue_levels(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock, observer = ManualClock(), RecordingObserver()

        def take_a_second(items: list[Any]) -> list[Any]:
            clock.advance(1.0)
            return items

        processor = RecordingProcessor(take_a_second)
        batcher = make_batcher(processor, clock=clock, observer=observer)
        with processor.busy(batcher):
            submit_all(batcher, "ab", cost=2.0)
            assert observer.queue[-1] == (2, 4.0)
        assert batcher.drain(WAIT_SECONDS)
        assert observer.waits == [0.0, 1.0, 1.0]
        assert observer.finished == [(1, 1.0, 1.0), (2, 4.0, 1.0)]
        assert observer.queue[-1] == (0, 0.0)
        assert observer.drops == []
        assert observer.restarts == 0

    def test_a_split_batch_is_reported_once_with_the_time_of_all_its_attempts(
        self, make_batcher: MakeBatcher
    ) -> None:
        clock, observer = ManualClock(), RecordingObserver()

        def fit_one(items: list[Any]) -> list[Any]:
            clock.advance(1.0)
            if len(items) > 1:
                raise MemoryError
            return items

        processor = RecordingProcessor(fit_one)
        batcher = make_batcher(processor, clock=clock, observer=observer)
        with processor.busy(batcher):
            submissions = submit_all(batcher, "ab")
        assert batcher.drain(WAIT_SECONDS)
        assert observer.finished[1:] == [(2, 2.0, 3.0)]
        assert [s.compute_seconds for s in submissions] == [2.0, 3.0]

    def test_an_older_queue_level_is_never_reported_after_a_newer_one(
        self, make_batcher: MakeBatcher
    ) -> None:
        older_is_under_way, newer_is_reported = threading.Event(), threading.Event()
        levels: list[int] = []

        class StallingObserver(RecordingObserver):
            def queue_changed(self, depth: int, cost: float) -> None:
                if depth == 1:
                    older_is_under_way.set()
                    newer_is_reported.wait(0.05)  # in vain, as it has to come second
                levels.append(depth)
                if depth == 2:
                    newer_is_reported.set()

        processor = RecordingProcessor()
        batcher = make_batcher(processor, observer=StallingObserver())
        with processor.busy(batcher), concurrent.futures.ThreadPoolExecutor(1) as pool:
            levels.clear()
            older = pool.submit(submit_all, batcher, "a")
            assert_set(older_is_under_way)
            submit_all(batcher, "b")
            older.result(WAIT_SECONDS)
            assert levels[-1] == 2

    def test_an_observer_that_fails_changes_nothing(self, make_batcher: MakeBatcher) -> None:
        class FailingObserver(RecordingObserver):
            def __getattribute__(self, name: str) -> Any:
                def fail(*_: object) -> None:
                    raise OSError(name)

                return fail

        def behave(items: list[Any]) -> list[Any]:
            if "poison" in items:
                raise SystemExit
            return items

        processor = RecordingProcessor(behave)
        batcher = make_batcher(processor, observer=FailingObserver())
        with processor.busy(batcher):
            cancelled, kept = submit_all(batcher, "ab")
            assert cancelled.future.cancel()
        assert result(kept) == "b"
        assert isinstance(
            error(batcher.submit("poison", bucket="bucket", cost=1.0)), WorkerDiedError
        )
        assert batcher.wait_until_ready(WAIT_SECONDS)
