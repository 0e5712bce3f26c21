"""Items that end early: after their deadline, cancelled, failed or out of memory."""

import concurrent.futures
import gc
import threading
import weakref
from typing import Any

import pytest

from service.batching import (
    DeadlineExceededError,
    DropReason,
    ItemOutOfMemoryError,
    ResultCountError,
)
from tests.support.recording_batcher import (
    WAIT_SECONDS,
    MakeBatcher,
    ManualClock,
    RecordingObserver,
    RecordingProcessor,
    error,
    result,
    submit_all,
)


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
        assert "after 7.00 s" in str(failure)
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

    def test_the_check_for_out_of_memory_can_be_given(self, make_batcher: MakeBatcher) -> None:
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
            assert f"{len(returned)} results for 2 items" in str(failure)
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
        # A dead worker's last frames may form a cycle, which only the garbage collector frees.
        for _ in range(int(WAIT_SECONDS / 0.05)):
            gc.collect()
            if all(event.wait(0.05) for event in gone):
                break
        assert all(event.is_set() for event in gone)
