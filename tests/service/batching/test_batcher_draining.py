"""A batcher drains, closes and reports its state to an observer."""

import concurrent.futures
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest

from service.batching import (
    BatcherClosedError,
    BatcherState,
    BatchLimits,
    DropReason,
    MicroBatcher,
    WorkerDiedError,
    WorkerUnavailableError,
)
from tests.support.recording_batcher import (
    ROOMY,
    WAIT_SECONDS,
    MakeBatcher,
    ManualClock,
    RecordingObserver,
    RecordingProcessor,
    error,
    result,
    submit_all,
    supervisor_of,
    wait_for_state,
)


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
        end_life = supervisor_of(batcher)._end_life

        def end_life_and_linger() -> None:
            end_life()
            threading.Event().wait(0.05)

        monkeypatch.setattr(supervisor_of(batcher), "_end_life", end_life_and_linger)
        assert batcher.drain(WAIT_SECONDS)
        assert not processor.threads[0].is_alive()

    def test_a_second_drain_returns_at_once(self, make_batcher: MakeBatcher) -> None:
        batcher = make_batcher(RecordingProcessor())
        assert batcher.drain(WAIT_SECONDS)
        assert batcher.drain(0.0)

    def test_a_batcher_never_started_drains_and_then_cannot_start(self) -> None:
        processor = RecordingProcessor()
        batcher: MicroBatcher[Any, Any] = MicroBatcher("test", {"cpu": processor}, ROOMY)
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
        batcher: MicroBatcher[Any, Any] = MicroBatcher("test", {"cpu": processor}, ROOMY)
        starter = threading.Thread(target=batcher.start, daemon=True)
        starter.start()
        assert batcher.wait_until_ready(WAIT_SECONDS)
        assert not processor.threads[0].daemon
        assert batcher.drain(WAIT_SECONDS)

    def test_a_drained_batcher_does_not_keep_the_interpreter_from_exiting(self) -> None:
        program = """
from service.batching import BatchLimits, Computed, MicroBatcher
class Echo:
    def start(self): pass
    def launch(self, items): return Computed(items)
    def stop(self): print("stopped")
batcher = MicroBatcher("echo", {"cpu": Echo()}, BatchLimits(2, 2.0, 2.0))
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
    def test_a_submission_tells_its_wait_its_computation_and_the_size_of_its_batch(
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

    def test_the_observer_learns_of_waits_and_batches(self, make_batcher: MakeBatcher) -> None:
        clock, observer = ManualClock(), RecordingObserver()

        def take_a_second(items: list[Any]) -> list[Any]:
            clock.advance(1.0)
            return items

        processor = RecordingProcessor(take_a_second)
        batcher = make_batcher(processor, clock=clock, observer=observer)
        with processor.busy(batcher):
            submit_all(batcher, "ab", cost=2.0)
        assert batcher.drain(WAIT_SECONDS)
        assert observer.waits == [0.0, 1.0, 1.0]
        assert observer.finished == [(1, 1.0, 1.0), (2, 4.0, 1.0)]
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
