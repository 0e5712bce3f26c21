"""A worker launches the next batch while its device computes the last one."""

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from service.batching import (
    BatcherState,
    BatchLimits,
    DeadlineExceededError,
    DropReason,
    ItemOutOfMemoryError,
    MicroBatcher,
    RestartBackoff,
    Submission,
    WorkerDiedError,
    WorkerStalledError,
)
from tests.support.recording_batcher import (
    WAIT_SECONDS,
    MakeBatcher,
    ManualClock,
    RecordingObserver,
    error,
    reserved,
    result,
    submit_all,
    supervisor_of,
)


class Device:
    """A processor whose device computes by itself until the test lets it finish a batch."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[Any]]] = []
        self.launched = threading.Semaphore(0)
        self.looks = threading.Semaphore(0)
        self.refuses: dict[Any, Exception] = {}
        self._finished: dict[Any, threading.Event] = {}
        self._lock = threading.Lock()

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def abandon(self) -> None: ...

    def launch(self, items: Sequence[Any]) -> "Batch":
        self.events.append(("launch", list(items)))
        self.launched.release()
        for item in items:
            if item in self.refuses:
                raise self.refuses[item]
        return Batch(self, list(items))

    def finished(self, item: Any) -> threading.Event:
        with self._lock:
            return self._finished.setdefault(item, threading.Event())

    def await_launch(self) -> None:
        assert self.launched.acquire(timeout=WAIT_SECONDS)

    def await_looks(self) -> None:
        """Wait until the worker has looked after its device several times since it launched."""
        while self.looks.acquire(blocking=False):
            pass
        for _ in range(5):
            assert self.looks.acquire(timeout=WAIT_SECONDS)

    def release(self) -> None:
        """Finish everything, so that the fixture can drain the batcher."""
        for item in "abcdefgh":
            self.finished(item).set()


class Batch:
    def __init__(self, device: Device, items: list[Any]) -> None:
        self.device, self.items = device, items

    @property
    def done(self) -> bool:
        self.device.looks.release()
        return self.device.finished(self.items[0]).is_set()

    def results(self) -> list[Any]:
        assert self.device.finished(self.items[0]).wait(WAIT_SECONDS)
        self.device.events.append(("finish", self.items))
        for item in self.items:
            if str(item).startswith("bad"):
                raise ValueError("as a kernel fails")
        return list(self.items)


class Picture:
    """An item whose end can be seen."""


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.release()


ONE = BatchLimits(max_batch_items=1, max_batch_cost=100.0, max_queue_cost=100.0)
TWO = BatchLimits(max_batch_items=2, max_batch_cost=100.0, max_queue_cost=100.0)


def test_the_next_batch_is_launched_before_the_last_one_is_finished(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, ONE)
    first, second, third = submit_all(batcher, "abc")
    device.await_launch()
    device.await_launch()
    assert not first.future.done()
    device.finished("a").set()
    assert result(first) == "a"
    device.await_launch()
    device.finished("b").set()
    device.finished("c").set()
    assert [result(second), result(third)] == ["b", "c"]
    assert device.events[:3] == [("launch", ["a"]), ("launch", ["b"]), ("finish", ["a"])]


def test_no_more_than_two_batches_are_launched(make_batcher: MakeBatcher, device: Device) -> None:
    batcher = make_batcher(device, ONE)
    submissions = submit_all(batcher, "abcd")
    device.await_launch()
    device.await_launch()
    assert not device.launched.acquire(timeout=0.05)
    assert batcher.queue_depth == 2
    device.release()
    assert [result(each) for each in submissions] == list("abcd")


def test_a_result_is_delivered_while_no_other_item_comes(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, ONE)
    lone = batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    device.finished("a").set()
    assert result(lone) == "a"


def test_a_batch_that_is_not_full_grows_until_the_device_needs_it(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, TWO)
    # The device takes an hour for a batch, as far as the batcher knows.
    batcher.expect(1.0, 3600.0)
    first = batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    second = batcher.submit("b", bucket="bucket", cost=1.0)
    assert not device.launched.acquire(timeout=0.05)
    third = batcher.submit("c", bucket="bucket", cost=1.0)
    device.await_launch()
    device.release()
    assert [result(each) for each in (first, second, third)] == ["a", "b", "c"]
    assert [items for event, items in device.events if event == "launch"] == [["a"], ["b", "c"]]


def test_an_unfilled_batch_does_not_delay_the_results_before_it(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, TWO)
    batcher.expect(1.0, 3600.0)
    first = batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    second = batcher.submit("b", bucket="bucket", cost=1.0)
    device.finished("a").set()
    assert result(first) == "a"
    device.finished("b").set()
    assert result(second) == "b"


def test_a_batch_that_comes_after_the_device_was_expected_to_finish_is_launched_at_once(
    make_batcher: MakeBatcher, device: Device
) -> None:
    clock = ManualClock()
    batcher = make_batcher(device, TWO, clock=clock)
    batcher.expect(1.0, 0.1)
    late = batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    clock.advance(60.0)
    device.await_looks()
    second = batcher.submit("b", bucket="bucket", cost=1.0)
    device.await_launch()
    device.release()
    assert [result(late), result(second)] == ["a", "b"]
    assert device.events[:2] == [("launch", ["a"]), ("launch", ["b"])]


def test_a_full_batch_that_comes_after_an_item_expired_is_launched_at_once(
    make_batcher: MakeBatcher, device: Device
) -> None:
    clock, observer = ManualClock(), RecordingObserver()
    batcher = make_batcher(device, TWO, clock=clock, observer=observer)
    batcher.expect(1.0, 3600.0)
    first = batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    with reserved(batcher, 1.0) as room:
        brief = batcher.submit("b", bucket="bucket", cost=1.0, deadline=0.03, reservation=room)
    clock.advance(0.03)
    assert isinstance(error(brief), DeadlineExceededError)
    device.await_looks()
    full = submit_all(batcher, "cd")
    device.await_launch()
    device.release()
    assert [result(each) for each in (first, *full)] == ["a", "c", "d"]
    assert device.events[:2] == [("launch", ["a"]), ("launch", ["c", "d"])]
    assert observer.drops == [DropReason.DEADLINE]


def test_an_expired_item_is_not_kept_while_the_device_computes(
    make_batcher: MakeBatcher, device: Device
) -> None:
    clock = ManualClock()
    batcher = make_batcher(device, TWO, clock=clock)
    batcher.expect(1.0, 3600.0)
    batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    picture = Picture()
    kept = weakref.ref(picture)
    with reserved(batcher, 1.0) as room:
        brief = batcher.submit(picture, bucket="b", cost=1.0, deadline=0.03, reservation=room)
    del picture
    clock.advance(0.03)
    assert isinstance(error(brief), DeadlineExceededError)
    device.await_looks()
    gc.collect()
    assert kept() is None


def test_a_batch_that_fails_beside_another_is_tried_again_alone(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, TWO, is_out_of_memory=lambda e: isinstance(e, MemoryError))
    batcher.expect(1.0, 3600.0)
    first, _ = submit_all(batcher, "ab")
    device.await_launch()
    device.refuses["c"] = MemoryError("the other batch holds the memory")
    second = submit_all(batcher, "cd")
    device.await_launch()
    device.refuses.clear()
    device.finished("a").set()
    assert result(first) == "a"
    device.await_launch()
    device.finished("c").set()
    assert [result(each) for each in second] == ["c", "d"]
    assert [items for event, items in device.events if event == "launch"] == [
        ["a", "b"],
        ["c", "d"],
        ["c", "d"],
    ]


def test_an_item_that_never_fits_is_refused_after_it_was_alone(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, ONE)
    batcher.expect(1.0, 3600.0)
    first = batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    device.refuses["b"] = MemoryError("never")
    second = batcher.submit("b", bucket="bucket", cost=1.0)
    device.await_launch()
    device.finished("a").set()
    assert result(first) == "a"
    assert isinstance(error(second), ItemOutOfMemoryError)
    assert [event for event, _ in device.events] == ["launch", "launch", "finish", "launch"]


def test_a_batch_that_fails_on_the_device_is_halved(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, TWO)
    for item in ("bad", "e"):
        device.finished(item).set()
    blocker = batcher.submit("a", bucket="blocker", cost=1.0)
    device.await_launch()
    bad, good = submit_all(batcher, ["bad", "e"])
    device.release()
    assert result(blocker) == "a"
    assert isinstance(error(bad), ValueError)
    assert result(good) == "e"


class LostError(Exception):
    """The device is lost."""


def test_a_fatal_failure_costs_the_worker_and_its_items(
    make_batcher: MakeBatcher, device: Device
) -> None:
    observer = RecordingObserver()
    batcher = make_batcher(
        device, TWO, is_fatal=lambda e: isinstance(e, LostError), observer=observer
    )
    batcher.expect(1.0, 3600.0)
    first, _ = submit_all(batcher, "ab")
    device.await_launch()
    device.refuses["c"] = LostError("an illegal memory access")
    second = submit_all(batcher, "cd")
    failures = [error(each) for each in (first, *second)]
    assert [type(failure) for failure in failures] == [WorkerDiedError] * 3
    assert isinstance(failures[0].__cause__ if failures[0] else None, LostError)
    device.refuses.clear()
    device.release()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    assert result(batcher.submit("e", bucket="bucket", cost=1.0)) == "e"
    assert observer.restarts == 1


def test_a_device_that_hangs_after_the_launch_costs_the_worker() -> None:
    device, now = Device(), [0.0]
    batcher: MicroBatcher[Any, Any] = MicroBatcher(
        "hung",
        {"cpu": device},
        ONE,
        restart_backoff=RestartBackoff(0.001, 0.001),
        stall_seconds=100.0,
        clock=lambda: now[0],
    )
    batcher.start()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    owed: list[Submission[Any]] = submit_all(batcher, "abc")
    device.await_launch()
    device.await_launch()
    watchdog = supervisor_of(batcher)._watchdog
    pause = threading.Event()
    # The wait for the results of the first batch is one call of the processor, and watched.
    for _ in range(2000):
        now[0] += 200.0
        watchdog.look()
        if batcher.state is not BatcherState.READY or owed[0].future.done():
            break
        pause.wait(0.001)
    assert [type(error(each)) for each in owed] == [WorkerStalledError] * 3
    device.release()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    assert result(batcher.submit("d", bucket="bucket", cost=1.0)) == "d"
    assert batcher.drain(WAIT_SECONDS)


def test_a_hung_device_is_found_while_items_expire_and_its_thread_ends(
    make_batcher: MakeBatcher, device: Device
) -> None:
    clock, observer = ManualClock(), RecordingObserver()
    batcher = make_batcher(device, TWO, stall_seconds=100.0, clock=clock, observer=observer)
    batcher.expect(1.0, 3600.0)
    owed = batcher.submit("a", bucket="bucket", cost=1.0)
    device.await_launch()
    device.await_looks()
    supervisor = supervisor_of(batcher)
    hung = supervisor.worker
    assert hung is not None
    # An item ends after each 60 seconds, and the device may compute for 100.
    for item in "bc":
        with reserved(batcher, 1.0) as room:
            brief = batcher.submit(
                item, bucket=item, cost=1.0, deadline=clock() + 60.0, reservation=room
            )
        clock.advance(60.0)
        assert isinstance(error(brief), DeadlineExceededError)
    supervisor._watchdog.look()
    assert isinstance(error(owed), WorkerStalledError)
    assert observer.stalls == 1
    # The device still hangs.
    hung.join(WAIT_SECONDS)
    assert not hung.is_alive()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    device.finished("d").set()
    assert result(batcher.submit("d", bucket="bucket", cost=1.0)) == "d"


def test_a_drained_batcher_has_finished_what_was_launched(
    make_batcher: MakeBatcher, device: Device
) -> None:
    batcher = make_batcher(device, ONE)
    submissions = submit_all(batcher, "abc")
    device.await_launch()
    device.release()
    assert batcher.drain(WAIT_SECONDS)
    assert [result(each) for each in submissions] == list("abc")
