"""How a batcher gathers a batch, when it starts one, and which items it admits."""

from typing import Any

import pytest

from service.batching import (
    BatcherClosedError,
    BatchLimits,
    DeadlineExceededError,
    DropReason,
    ItemTooLargeError,
    QueueFullError,
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
        with pytest.raises(ItemTooLargeError, match=r"costs 10\.5; the whole queue holds 10\."):
            batcher.submit("a", bucket="bucket", cost=10.5)

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
            batcher.check(10.0)
            assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)
            (stale,) = submit_all(batcher, "a", cost=10.0, deadline=3.0)
            with pytest.raises(QueueFullError):
                batcher.check(1.0)
            with pytest.raises(ItemTooLargeError):
                batcher.check(10.5)
            clock.advance(4.0)
            batcher.check(1.0)
            assert isinstance(error(stale), DeadlineExceededError)
        assert batcher.drain(WAIT_SECONDS)
        with pytest.raises(BatcherClosedError):
            batcher.check(1.0)
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

    def test_items_that_would_be_late_by_the_measured_rate_are_refused_at_once(
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
            batcher.check(2.0, deadline=5.0)
            with pytest.raises(QueueFullError, match="no time") as caught:
                batcher.submit("late", bucket="bucket", cost=2.0, deadline=4.9)
            assert caught.value.retry_after_seconds == pytest.approx(0.1)
            with pytest.raises(QueueFullError, match="no time"):
                batcher.check(2.0, deadline=4.9)
            submit_all(batcher, "c", cost=2.0, deadline=5.0)
        assert result(waiting) == "b"
        assert batcher.drain(WAIT_SECONDS)
        assert "late" not in [item for batch in processor.batches for item in batch]

    def test_a_given_rate_counts_as_the_first_batch(self, make_batcher: MakeBatcher) -> None:
        processor = RecordingProcessor()
        batcher = make_batcher(processor, self.LIMITS, clock=ManualClock())
        batcher.expect(cost=4.0, seconds=1.0)
        with processor.busy(batcher):
            # 1 is being computed, and 2 of its own: 0.75 s, and half of that again for safety.
            batcher.check(2.0, deadline=1.125)
            with pytest.raises(QueueFullError, match="no time"):
                batcher.check(2.0, deadline=1.1)

    def test_an_idle_worker_accepts_work_at_any_measured_rate(
        self, make_batcher: MakeBatcher
    ) -> None:
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
