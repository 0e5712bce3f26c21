"""A worker that dies fails its items, and a new worker replaces it."""

import concurrent.futures
import logging
import threading
from typing import Any

import pytest

from service.batching import (
    BatcherState,
    BatchLimits,
    DropReason,
    MicroBatcher,
    RestartBackoff,
    WorkerDiedError,
    WorkerUnavailableError,
)
from tests.support.recording_batcher import (
    ROOMY,
    WAIT_SECONDS,
    MakeBatcher,
    RecordingObserver,
    RecordingProcessor,
    assert_set,
    error,
    result,
    submit_all,
    supervisor_of,
    wait_for_state,
)


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
            {"cpu": processor},
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
        # A failed start needs no stop.
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
            patched.setattr(supervisor_of(batcher), "_worker", threading.Thread())
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
