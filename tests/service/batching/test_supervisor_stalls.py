"""A worker whose call does not return is abandoned: its items fail and a new worker replaces it."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from service.batching import (
    BatcherState,
    BatchLimits,
    Computed,
    DropReason,
    MicroBatcher,
    RestartBackoff,
    SilentObserver,
    Submission,
    WorkerStalledError,
    WorkerUnavailableError,
)
from tests.support.recording_batcher import supervisor_of

WAIT_SECONDS = 30.0
STALL_SECONDS = 100.0
HANG = "hang"


class HangingProcessor:
    """A processor that hangs on every item in ``hanging`` until the test releases it."""

    def __init__(self) -> None:
        self.hanging: set[str] = {HANG}
        self.released = threading.Event()
        self.hung = threading.Semaphore(0)
        self.events: list[str] = []

    def start(self) -> None:
        self._maybe_hang("start")
        self.events.append("start")

    def launch(self, items: Sequence[str]) -> Computed[str]:
        for item in items:
            self._maybe_hang(item)
        self.events.append("process")
        return Computed(list(items))

    def stop(self) -> None:
        self._maybe_hang("stop")
        self.events.append("stop")

    def abandon(self) -> None:
        self.events.append("abandon")

    def _maybe_hang(self, where: str) -> None:
        if where in self.hanging:
            self.hung.release()
            assert self.released.wait(WAIT_SECONDS)

    def wait_until_hung(self) -> None:
        assert self.hung.acquire(timeout=WAIT_SECONDS)


class StallObserver(SilentObserver):
    def __init__(self) -> None:
        self.drops: Counter[DropReason] = Counter()
        self.stalls = self.restarts = self.batches = 0

    def item_dropped(self, reason: DropReason) -> None:
        self.drops[reason] += 1

    def worker_stalled(self, worker: str) -> None:
        self.stalls += 1

    def worker_restarted(self, worker: str) -> None:
        self.restarts += 1

    def batch_finished(self, worker: str, size: int, cost: float, seconds: float) -> None:
        self.batches += 1


class Watched:
    """A started batcher on a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processor, self.observer = HangingProcessor(), StallObserver()
        self.batcher: MicroBatcher[str, str] = MicroBatcher(
            "watched",
            {"cpu": self.processor},
            BatchLimits(8, 100.0, 100.0),
            observer=self.observer,
            restart_backoff=RestartBackoff(0.001, 0.001),
            stall_seconds=STALL_SECONDS,
            clock=lambda: self.now,
        )

    def start(self) -> None:
        self.batcher.start()
        assert self.batcher.wait_until_ready(WAIT_SECONDS)

    def submit(self, item: str) -> Submission[str]:
        return self.batcher.submit(item, bucket=item, cost=1.0)

    def let_stall(self) -> None:
        self.now += STALL_SECONDS
        supervisor_of(self.batcher)._watchdog.look()

    def hang(self) -> Submission[str]:
        hanging = self.submit(HANG)
        self.processor.wait_until_hung()
        return hanging

    def stuck(self) -> list[threading.Thread]:
        return list(supervisor_of(self.batcher)._stuck)


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.processor.released.set()
    assert made.batcher.drain(WAIT_SECONDS)


def failure_of(submission: Submission[Any]) -> BaseException | None:
    return submission.future.exception(WAIT_SECONDS)


def test_the_items_of_a_hanging_worker_fail_at_once_and_a_new_worker_computes(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.start()
    owed = [watched.hang(), watched.submit("queued")]
    watched.now += STALL_SECONDS - 1
    assert supervisor_of(watched.batcher)._watchdog.look() == 1
    assert watched.batcher.ready
    watched.let_stall()
    assert all(isinstance(failure_of(each), WorkerStalledError) for each in owed)
    assert watched.observer.drops == {DropReason.WORKER_STALLED: 2}
    assert (watched.observer.stalls, watched.observer.restarts) == (1, 1)
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR]
    assert watched.batcher.wait_until_ready(WAIT_SECONDS)
    assert watched.submit("next").future.result(WAIT_SECONDS) == "next"
    assert watched.processor.events == ["start", "abandon", "start", "process"]


def test_a_call_that_comes_back_late_changes_nothing(watched: Watched) -> None:
    watched.start()
    hanging = watched.hang()
    watched.let_stall()
    (stuck,) = watched.stuck()
    assert watched.batcher.wait_until_ready(WAIT_SECONDS)
    watched.processor.released.set()
    stuck.join(WAIT_SECONDS)
    assert not stuck.is_alive()
    assert isinstance(failure_of(hanging), WorkerStalledError)
    assert watched.observer.batches == 0
    assert watched.batcher.ready
    assert "stop" not in watched.processor.events
    assert watched.submit("next").future.result(WAIT_SECONDS) == "next"
    assert watched.observer.stalls == 1


def test_a_worker_that_dies_after_it_was_given_up_takes_no_other_along(watched: Watched) -> None:
    watched.start()
    launch = watched.processor.launch

    def die(items: Sequence[str]) -> Computed[str]:
        launch(items)
        raise SystemExit

    watched.processor.launch = die  # type: ignore[method-assign]
    watched.hang()
    watched.let_stall()
    (stuck,) = watched.stuck()
    watched.processor.launch = launch  # type: ignore[method-assign]
    assert watched.batcher.wait_until_ready(WAIT_SECONDS)
    watched.processor.released.set()
    stuck.join(WAIT_SECONDS)
    assert watched.batcher.ready
    assert watched.observer.restarts == 1


def test_after_three_stuck_workers_there_is_no_new_one_until_a_call_returns(
    watched: Watched,
) -> None:
    watched.start()
    for _ in range(3):
        assert watched.batcher.wait_until_ready(WAIT_SECONDS)
        watched.hang()
        watched.let_stall()
    assert watched.batcher.state is BatcherState.FAILED
    assert not watched.batcher.ready
    with pytest.raises(WorkerUnavailableError):
        watched.submit("refused")
    assert watched.observer.restarts == 2
    watched.processor.released.set()
    for thread in watched.stuck():
        thread.join(WAIT_SECONDS)
    assert watched.batcher.wait_until_ready(WAIT_SECONDS)
    assert watched.submit("next").future.result(WAIT_SECONDS) == "next"
    assert watched.stuck() == []


def test_each_part_of_a_failing_batch_has_the_whole_time(watched: Watched) -> None:
    watched.start()

    def slow(items: Sequence[str]) -> Computed[str]:
        watched.now += STALL_SECONDS * 0.6
        supervisor_of(watched.batcher)._watchdog.look()
        if len(items) > 1:
            raise ValueError("too many")
        return Computed(list(items))

    blocker = watched.hang()
    watched.processor.launch = slow  # type: ignore[method-assign]
    together = [watched.submit("a") for _ in range(2)]
    watched.processor.released.set()
    assert blocker.future.result(WAIT_SECONDS) == HANG
    assert [each.future.result(WAIT_SECONDS) for each in together] == ["a", "a"]
    assert watched.observer.stalls == 0


def test_a_start_that_hangs_is_tried_on_another_thread(watched: Watched) -> None:
    watched.processor.hanging = {"start"}
    watched.batcher.start()
    watched.processor.wait_until_hung()
    watched.processor.hanging = set()
    watched.let_stall()
    assert watched.batcher.wait_until_ready(WAIT_SECONDS)
    (stuck,) = watched.stuck()
    watched.processor.released.set()
    stuck.join(WAIT_SECONDS)
    assert watched.submit("next").future.result(WAIT_SECONDS) == "next"
    assert watched.processor.events == ["abandon", "start", "start", "process"]


@pytest.mark.parametrize("where", [HANG, "stop"])
def test_draining_does_not_wait_for_a_worker_that_was_given_up(
    watched: Watched, where: str
) -> None:
    watched.processor.hanging = {where}
    watched.start()
    owed = watched.submit(HANG)
    if where == "stop":
        assert owed.future.result(WAIT_SECONDS) == HANG
    else:
        watched.processor.wait_until_hung()
    assert not watched.batcher.drain(0.05)
    if where == "stop":
        watched.processor.wait_until_hung()
    watched.let_stall()
    assert watched.batcher.drain(0.0)
    assert watched.batcher.state is BatcherState.STOPPED


def test_the_watchdog_notices_by_itself(watched: Watched) -> None:
    batcher: MicroBatcher[str, str] = MicroBatcher(
        "real", {"cpu": watched.processor}, BatchLimits(8, 100.0, 100.0), stall_seconds=0.2
    )
    batcher.start()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    owed = batcher.submit(HANG, bucket=HANG, cost=1.0)
    assert isinstance(failure_of(owed), WorkerStalledError)
    watched.processor.released.set()
    assert batcher.drain(WAIT_SECONDS)


def test_a_watchdog_that_fails_or_dies_watches_on(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.start()
    watchdog = supervisor_of(watched.batcher)._watchdog
    watchdog._closed.set()
    dead = watchdog._thread
    assert dead is not None
    dead.join(WAIT_SECONDS)
    watchdog._closed.clear()
    assert watched.submit("next").future.result(WAIT_SECONDS) == "next"
    assert watchdog._thread is not dead
    assert "had died" in caplog.text


def test_an_observer_or_a_processor_that_fails_does_not_stop_the_replacement(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr(watched.observer, "worker_stalled", fail)
    monkeypatch.setattr(watched.processor, "abandon", fail)
    watched.start()
    owed = watched.hang()
    watched.let_stall()
    assert isinstance(failure_of(owed), WorkerStalledError)
    assert watched.batcher.wait_until_ready(WAIT_SECONDS)
