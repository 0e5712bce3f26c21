"""Several workers behind one queue: one that fails leaves the others serving."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.batching import (
    BatcherState,
    BatchLimits,
    MicroBatcher,
    RestartBackoff,
    WorkerDiedError,
    WorkerUnavailableError,
)
from tests.support.recording_batcher import (
    WAIT_SECONDS,
    RecordingObserver,
    RecordingProcessor,
    error,
    result,
    submit_all,
)

LIMITS = BatchLimits(max_batch_items=1, max_batch_cost=100.0, max_queue_cost=100.0)
NEVER = RestartBackoff(3600.0, 3600.0)


def die_on_poison(items: list[Any]) -> list[Any]:
    if "poison" in items:
        raise SystemExit(3)
    return items


class Pair:
    """A batcher with two workers, of which each records what it computes."""

    def __init__(self, backoff: RestartBackoff = NEVER) -> None:
        self.observer = RecordingObserver()
        self.first = RecordingProcessor(die_on_poison)
        self.second = RecordingProcessor(die_on_poison)
        self.batcher: MicroBatcher[Any, Any] = MicroBatcher(
            "pair",
            {"cuda:0": self.first, "cuda:1": self.second},
            LIMITS,
            observer=self.observer,
            restart_backoff=backoff,
        )
        self.batcher.start()
        assert self.batcher.wait_until_ready(WAIT_SECONDS)

    def close(self) -> None:
        self.first.release()
        self.second.release()
        assert self.batcher.drain(WAIT_SECONDS)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_two_workers_compute_at_the_same_time(pair: Pair) -> None:
    for processor in (pair.first, pair.second):
        processor._open.clear()
    submissions = submit_all(pair.batcher, "abc")
    for processor in (pair.first, pair.second):
        assert processor._entered.acquire(timeout=WAIT_SECONDS)
    assert pair.batcher.queue_depth == 1
    assert pair.batcher.seconds_in_flight > 0
    assert sorted(map(str, [*pair.first.batches, *pair.second.batches])) == ["['a']", "['b']"]
    pair.first.release()
    pair.second.release()
    assert [result(each) for each in submissions] == list("abc")


def test_a_worker_that_hangs_does_not_count_while_another_is_idle(pair: Pair) -> None:
    for processor in (pair.first, pair.second):
        processor._open.clear()
    submissions = dict(zip("ab", submit_all(pair.batcher, "ab"), strict=True))
    for processor in (pair.first, pair.second):
        assert processor._entered.acquire(timeout=WAIT_SECONDS)
    assert pair.batcher.seconds_in_flight > 0
    pair.second.release()
    (done,) = pair.second.batches[0]
    assert result(submissions[done]) == done
    assert pair.batcher.seconds_in_flight == 0


def test_a_worker_that_dies_leaves_the_queue_to_the_other(pair: Pair) -> None:
    for processor in (pair.first, pair.second):
        processor._open.clear()
    poison, held = submit_all(pair.batcher, ["poison", "held"])
    for processor in (pair.first, pair.second):
        assert processor._entered.acquire(timeout=WAIT_SECONDS)
    queued = submit_all(pair.batcher, "abc")
    dying, alive = (
        (pair.first, pair.second)
        if pair.first.batches == [["poison"]]
        else (pair.second, pair.first)
    )
    dying.release()
    assert isinstance(error(poison), WorkerDiedError)
    assert not held.future.done()
    alive.release()
    assert [result(each) for each in (held, *queued)] == ["held", *"abc"]
    name = "cuda:0" if dying is pair.first else "cuda:1"
    states = pair.batcher.worker_states
    assert states[name] is BatcherState.RESTARTING
    assert sorted(states.values(), key=str) == [BatcherState.READY, BatcherState.RESTARTING]
    assert pair.batcher.ready
    assert pair.batcher.state is BatcherState.READY


def test_without_any_worker_left_the_queued_items_fail_too(pair: Pair) -> None:
    for processor in (pair.first, pair.second):
        processor._open.clear()
    deadly = submit_all(pair.batcher, ["poison", "poison"])
    for processor in (pair.first, pair.second):
        assert processor._entered.acquire(timeout=WAIT_SECONDS)
    (queued,) = submit_all(pair.batcher, "a")
    pair.first.release()
    pair.second.release()
    assert [type(error(each)) for each in (*deadly, queued)] == [WorkerDiedError] * 3
    assert not pair.batcher.ready
    assert pair.batcher.state is BatcherState.RESTARTING
    with pytest.raises(WorkerUnavailableError):
        pair.batcher.submit("b", bucket="bucket", cost=1.0)


def test_a_dead_worker_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    pair = Pair(RestartBackoff(0.001, 0.001))
    assert isinstance(
        error(pair.batcher.submit("poison", bucket="bucket", cost=1.0)), WorkerDiedError
    )
    assert pair.batcher.wait_until_ready(WAIT_SECONDS)
    assert set(pair.batcher.worker_states.values()) == {BatcherState.READY}
    pair.close()
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "pair-cuda:" in record.getMessage()


def test_the_estimate_counts_every_ready_worker(pair: Pair) -> None:
    pair.batcher.expect(1.0, 1000.0)
    for processor in (pair.first, pair.second):
        processor._open.clear()
    submit_all(pair.batcher, "ab")
    for processor in (pair.first, pair.second):
        assert processor._entered.acquire(timeout=WAIT_SECONDS)
    (queued,) = submit_all(pair.batcher, "c")
    standing = pair.batcher.standing([queued.ticket])
    assert standing is not None
    # Less the time that the first two have taken so far.
    assert standing.seconds == pytest.approx(1500.0, abs=200.0)


def test_a_drain_stops_every_worker() -> None:
    pair = Pair()
    submissions = submit_all(pair.batcher, "abcdef")
    pair.close()
    assert [result(each) for each in submissions] == list("abcdef")
    assert pair.first.events == pair.second.events == ["start", "stop"]
    assert pair.batcher.state is BatcherState.STOPPED


def test_a_batcher_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        MicroBatcher("none", {}, LIMITS)
