"""Callers can ask for the progress of their request."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from service.batching import BatchLimits, Computed, MicroBatcher, Standing
from service.batching.bucket_queue import BucketQueue, QueueEntry
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import Held, RunningApp


@pytest.fixture
def alone(tiny_model: str) -> Iterator[RunningApp]:
    """An application of its own, so that its queue is empty."""
    with RunningApp(tiny_model, max_batch_images=1) as started:
        yield started


def _stage(running: RunningApp, request_id: str) -> str:
    stage: str = running.client.get(f"/explain/{request_id}/progress").json()["stage"]
    return stage


def _wait_until_queued(running: RunningApp, request_id: str) -> None:
    running.eventually(lambda: _stage(running, request_id) == "queued")


def _wait_until_forgotten(running: RunningApp) -> None:
    # A request is forgotten after the last byte of its answer.
    running.eventually(lambda: not running.state.explaining.progress._requests)


def test_a_waiting_request_knows_its_place(alone: RunningApp) -> None:
    alone.explain()
    with Held(alone) as held:
        bodies = [request_of(image=data_url(encoded(picture(seed=seed)))) for seed in range(4)]
        first = alone.explain_in_background(bodies[0], **{"X-Request-ID": "first"})
        assert held.entered.wait(60)
        waiting = []
        for place, body in enumerate(bodies[1:], start=1):
            name = f"waiting-{place}"
            waiting.append(alone.explain_in_background(body, **{"X-Request-ID": name}))
            _wait_until_queued(alone, name)
        assert _stage(alone, "first") == "computing"
        read = [
            alone.client.get(f"/explain/waiting-{place}/progress").json() for place in (1, 2, 3)
        ]
        assert [each["position"] for each in read] == [1, 2, 3]
        assert all(each["estimated_seconds"] >= 0 for each in read)
        assert alone.client.get("/explain/first/progress").headers["cache-control"] == "no-store"
    assert {each.result().status_code for each in (first, *waiting)} == {200}


class TwoSecondsEach:
    """Takes two seconds per item on its own clock, and blocks on the item "held"."""

    def __init__(self) -> None:
        self.now = 0.0
        self.entered, self.released = threading.Event(), threading.Event()

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def abandon(self) -> None: ...

    def launch(self, items: Sequence[str]) -> Computed[str]:
        if "held" in items:
            self.entered.set()
            assert self.released.wait(60)
        self.now += 2.0
        return Computed(items)


def test_the_estimate_is_the_work_ahead_at_the_measured_speed_less_what_has_passed() -> None:
    slow = TwoSecondsEach()
    batcher: MicroBatcher[str, str] = MicroBatcher(
        "slow", {"cpu": slow}, BatchLimits(1, 1.0, 10.0), clock=lambda: slow.now
    )
    batcher.start()
    assert batcher.wait_until_ready(60)
    try:
        assert batcher.submit("first", bucket=0, cost=1.0).future.result(60) == "first"
        held = batcher.submit("held", bucket=0, cost=1.0)
        assert slow.entered.wait(60)
        waiting = [batcher.submit(name, bucket=0, cost=1.0) for name in ("a", "b")]
        slow.now += 0.5
        assert [batcher.standing([each.ticket]) for each in (held, *waiting)] == [
            Standing(0, 1.5),
            Standing(1, 3.5),
            Standing(2, 5.5),
        ]
        assert batcher.standing([each.ticket for each in (*waiting, held)]) == Standing(2, 5.5)
    finally:
        slow.released.set()
        assert batcher.drain(60)
    assert batcher.standing([held.ticket]) is None


def test_the_queue_is_counted_once_for_all_pictures_of_a_request(
    alone: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    cost_until = BucketQueue.cost_until

    def counting(queue: BucketQueue[QueueEntry], ticket: int) -> tuple[int, float] | None:
        counted.append(ticket)
        return cost_until(queue, ticket)

    with Held(alone) as held:
        first = alone.explain_in_background()
        assert held.entered.wait(60)
        images = [data_url(encoded(picture(seed=seed))) for seed in range(1, 9)]
        body = request_of(image=None, images=images)
        many = alone.explain_in_background(body, **{"X-Request-ID": "many"})
        alone.wait_for_queue(8)
        _wait_until_queued(alone, "many")
        monkeypatch.setattr(BucketQueue, "cost_until", counting)
        read = alone.client.get("/explain/many/progress").json()
        assert (read["stage"], read["position"]) == ("queued", 8)
        assert len(counted) == 1
    assert {each.result().status_code for each in (first, many)} == {200}


def test_an_answered_request_is_forgotten(alone: RunningApp) -> None:
    assert alone.explain(**{"X-Request-ID": "done"}).status_code == 200
    assert _stage(alone, "done") == "unknown"
    _wait_until_forgotten(alone)


def test_a_refused_request_is_forgotten(alone: RunningApp) -> None:
    assert alone.explain(request_of(prompts=[""])).status_code == 422
    _wait_until_forgotten(alone)


def test_progress_does_not_reveal_the_content_of_a_request(alone: RunningApp) -> None:
    with Held(alone) as held:
        asked = alone.explain_in_background(
            request_of(prompts=["a secret"]), **{"X-Request-ID": "x"}
        )
        assert held.entered.wait(60)
        answer = alone.client.get("/explain/x/progress")
        assert set(answer.json()) == {"stage", "position", "estimated_seconds"}
        assert "secret" not in answer.text
    assert asked.result().status_code == 200


def test_ids_are_not_guessed(alone: RunningApp) -> None:
    with Held(alone) as held:
        asked = alone.explain_in_background()
        assert held.entered.wait(60)
        (name,) = alone.state.explaining.progress._requests
        assert len(name) == 32
    assert asked.result().headers["x-request-id"] == name


def test_of_two_requests_with_one_id_the_later_is_known(alone: RunningApp) -> None:
    with Held(alone) as held:
        asked = [alone.explain_in_background(**{"X-Request-ID": "same"})]
        assert held.entered.wait(60)
        other = request_of(image=data_url(encoded(picture(seed=5))))
        asked.append(alone.explain_in_background(other, **{"X-Request-ID": "same"}))
        _wait_until_queued(alone, "same")
    assert [each.result().status_code for each in asked] == [200, 200]
    _wait_until_forgotten(alone)
