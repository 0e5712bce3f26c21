"""Full queues, late answers, lost clients, dying workers: each request is answered once."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from legrad_engine.explainer import Explainer
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.raw_requests import LIVE, posted
from tests.support.running_app import Held, RunningApp

EXPLAIN = 'route="/explain"'
# The readiness of one model, in each protocol.
READY = ("/models/{}/ready", "/v1/models/{}", "/v2/models/{}/ready")


def test_many_callers_at_once_get_their_own_answers_from_shared_batches(tiny_model: str) -> None:
    bodies = [
        request_of(
            image=data_url(encoded(picture(40 + number % 5, 40, seed=number % 9))),
            prompts=[f"thing {number}", "a cat"][: 1 + number % 2],
            options={"layers": 1 + number % 2, "score": ("mean", "cls")[number % 3 == 0]},
        )
        for number in range(64)
    ]
    with RunningApp(tiny_model) as running:
        alone = [running.explain(body).json()["images"][0] for body in bodies]
        with Held(running) as held:
            answers = [running.explain_in_background(body) for body in bodies]
            assert held.entered.wait(60)
            running.eventually(lambda: running.model.batcher.queue_depth >= 48)
            held.release()
            together = [answer.result(60).json()["images"][0] for answer in answers]
        assert max(image["batch_size"] for image in together) > 1
        for one, other in zip(alone, together, strict=True):
            assert one["size"] == other["size"]
            assert len(one["targets"]) == len(other["targets"])
            for expected, found in zip(one["targets"], other["targets"], strict=True):
                assert found["prompt"] == expected["prompt"]
                assert found["similarity"] == pytest.approx(expected["similarity"], abs=1e-5)
                assert found["statistics"]["peak"] == pytest.approx(
                    expected["statistics"]["peak"], rel=1e-3
                )
        similarities = {image["targets"][0]["similarity"] for image in alone}
        assert len(similarities) > 32


def test_work_that_is_late_by_the_server_s_own_deadline_is_never_computed(tiny_model: str) -> None:
    with (
        RunningApp(tiny_model, request_timeout_seconds=3) as running,
        Held(running) as held,
    ):
        answers = [running.explain_in_background()]
        assert held.entered.wait(60)
        answers += [running.explain_in_background() for _ in range(5)]
        assert {each.result(60).status_code for each in answers} == {504}
        held.release()
        running.wait_for_queue(0)
        assert running.metric('legrad_rejected_total{reason="deadline-exceeded"}') == 6
        assert len(held.seen) == 1


def test_a_late_answer_is_a_gateway_timeout(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running, Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        late = running.explain(None, **{"X-Request-Timeout-Ms": "1000"})
        assert (late.status_code, late.json()["error"]) == (504, "deadline-exceeded")
        assert running.metric('legrad_rejected_total{reason="deadline-exceeded"}') == 1
        assert running.metric(f'legrad_requests_total{{{EXPLAIN},status="504"}}') == 1
        held.release()
        assert first.result(60).status_code == 200
        running.wait_for_queue(0)
        assert len(held.seen) == 1


def test_a_full_queue_says_when_to_come_back(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=3) as running, Held(running) as held:
        accepted = [running.explain_in_background()]
        assert held.entered.wait(60)
        for depth in (1, 2):
            accepted.append(running.explain_in_background())
            running.wait_for_queue(depth)
        refused = running.explain()
        assert (refused.status_code, refused.json()["error"]) == (429, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1
        assert running.metric('legrad_rejected_total{reason="queue-full"}') == 1
        held.release()
        assert [each.result(60).status_code for each in accepted] == [200] * 3
        assert running.explain().status_code == 200


def test_a_server_whose_model_is_stuck_is_not_ready_once_its_requests_are_late(
    tiny_model: str,
) -> None:
    with RunningApp(tiny_model, request_timeout_seconds=3) as running, Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        running.eventually(lambda: running.client.get("/health/ready").status_code == 503)
        assert "for longer than" in running.client.get("/health/ready").json()["detail"]
        of_the_model = [path.format(running.model.id) for path in READY]
        assert [running.client.get(path).status_code for path in of_the_model] == [503] * 3
        assert running.client.get("/health/live").status_code == 200
        assert first.result(60).status_code == 504
        held.release()
        running.eventually(lambda: running.client.get("/health/ready").status_code == 200)
        assert [running.client.get(path).status_code for path in of_the_model] == [200] * 3
        assert running.explain().status_code == 200


def test_more_requests_than_the_server_holds_are_refused(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_requests_in_progress=1) as running, Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        refused = running.explain()
        assert (refused.status_code, refused.json()["error"]) == (429, "too-many-requests")
        assert refused.headers["retry-after"] == "1"
        held.release()
        assert first.result(60).status_code == 200


def test_of_a_request_that_does_not_fit_no_picture_is_queued(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=6.5) as running, Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        second = running.explain_in_background()
        running.wait_for_queue(1)

        def large(count: int) -> Any:
            return running.explain(
                {
                    "images": [data_url(encoded(picture(seed=seed))) for seed in range(count)],
                    "prompts": ["a cat"],
                    "options": {"size": 96},
                }
            )

        assert large(2).status_code == 429
        # It exceeds even an empty queue.
        assert large(3).json()["error"] == "too-much-work"
        assert running.model.batcher.queue_depth == 1
        held.release()
        assert [each.result(60).status_code for each in (first, second)] == [200, 200]
        assert large(2).status_code == 200


def test_work_of_clients_that_left_is_not_computed(tiny_model: str) -> None:
    cancelled = 'legrad_dropped_total{model="tiny-tiny",reason="cancelled"}'
    with RunningApp(tiny_model) as running, Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        with socket.create_connection((running.host, running.port)) as leaving:
            leaving.sendall(posted(request_of(prompts=["abandoned"])))
            running.wait_for_queue(1)
        running.wait_for_queue(0)
        running.eventually(
            lambda: running.metric(f'legrad_requests_total{{{EXPLAIN},status="499"}}') == 1
        )
        assert running.metric(cancelled) == 1
        assert running.metric('legrad_rejected_total{reason="client-left"}') == 1
        assert running.metric("legrad_requests_in_progress") == 1
        held.release()
        assert first.result(60).status_code == 200
        assert len(held.seen) == 1


def test_a_client_that_leaves_is_noticed_though_it_has_asked_ahead(
    running: RunningApp, caplog: pytest.LogCaptureFixture
) -> None:
    def left() -> float:
        return running.metric(f'legrad_requests_total{{{EXPLAIN},status="499"}}')

    before = left()
    with Held(running) as held:
        with socket.create_connection((running.host, running.port)) as leaving:
            leaving.sendall(posted(request_of(prompts=["not known yet"])) + LIVE)
            assert held.entered.wait(60)
            leaving.sendall(LIVE)
        running.eventually(lambda: left() == before + 1)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_a_client_that_leaves_while_sending_is_no_server_error(running: RunningApp) -> None:
    def count(status: str) -> float:
        return running.metric(f'legrad_requests_total{{{EXPLAIN},status="{status}"}}')

    left, failed = count("499"), count("500")
    for content_type in ("application/json", "multipart/form-data; boundary=x"):
        with socket.create_connection((running.host, running.port)) as leaving:
            leaving.sendall(
                f"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n"
                "Content-Length: 1000\r\n\r\n--x\r\nContent-Disp".encode()
            )
    running.eventually(lambda: count("499") == left + 2)
    assert count("500") == failed


def test_a_dying_worker_fails_its_requests_and_is_replaced(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        processor: Any = running.processor()
        start, may_start = processor.start, asyncio.Event()

        def die(items: Sequence[Any]) -> Any:
            raise SystemExit("as if the device were lost")

        def refuse() -> None:
            if not may_start.is_set():
                raise RuntimeError("the device is still lost")
            start()

        processor.launch, processor.start = die, refuse
        failed = running.explain()
        assert (failed.status_code, failed.json()["error"]) == (503, "worker-died")
        not_ready = running.client.get("/health/ready")
        assert (not_ready.status_code, not_ready.json()["error"]) == (503, "not-ready")
        assert running.client.get("/health/live").status_code == 200
        assert running.client.get("/models").json()["models"][0]["state"] == "failed"
        assert running.explain().status_code == 503
        assert running.metric('legrad_model_loaded{device="cpu",model="tiny-tiny"}') == 0
        del processor.launch
        may_start.set()
        assert running.model.batcher.wait_until_ready(60)
        assert running.explain().status_code == 200
        assert running.client.get("/health/ready").status_code == 200
        assert running.metric('legrad_worker_restarts_total{device="cpu",model="tiny-tiny"}') >= 1
        assert running.metric('legrad_model_loaded{device="cpu",model="tiny-tiny"}') == 1


def test_a_batch_that_does_not_fit_in_memory_is_halved(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, sizes = Explainer.trace, []

    def limited(self: Explainer, images: Sequence[Any], **options: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("too many pictures")
        return trace(self, images, **options)

    with RunningApp(tiny_model) as running:
        monkeypatch.setattr(Explainer, "trace", limited)
        body = {
            "images": [data_url(encoded(picture(seed=seed))) for seed in range(8)],
            "prompts": ["a cat"],
        }
        answer = running.explain(body)
        assert answer.status_code == 200
        assert len(answer.json()["images"]) == 8
        assert max(sizes) > 2
        assert min(sizes) <= 2


def test_a_picture_that_never_fits_in_memory_fails_alone(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no room at all")

    with RunningApp(tiny_model) as running:
        with monkeypatch.context() as patch:
            patch.setattr(Explainer, "trace", full)
            failed = running.explain()
        assert (failed.status_code, failed.json()["error"]) == (503, "out-of-memory")
        assert running.metric('legrad_rejected_total{reason="out-of-memory"}') == 1
        assert running.explain().status_code == 200
        assert running.metric('legrad_worker_restarts_total{device="cpu",model="tiny-tiny"}') == 0


def test_a_bug_is_a_500_that_tells_nothing(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("internal detail")

    with RunningApp(tiny_model) as running:
        with monkeypatch.context() as patch:
            patch.setattr(Explainer, "trace", broken)
            failed = running.explain(None, **{"X-Request-ID": "find-me"})
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        assert failed.json()["error"] == "internal-error"
        assert failed.json()["request_id"] == "find-me"
        assert "internal detail" not in failed.text
        assert running.explain().status_code == 200


def test_leaving_the_application_answers_accepted_requests(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        with Held(running) as held:
            answers = [running.explain_in_background()]
            assert held.entered.wait(60)
            answers += [running.explain_in_background() for _ in range(4)]
            running.wait_for_queue(4)
            running._server.should_exit = True
        assert [answer.result(60).status_code for answer in answers] == [200] * 5


def test_requests_on_one_connection_are_answered_in_turn(running: RunningApp) -> None:
    with socket.create_connection((running.host, running.port), timeout=60) as connection:
        one = posted(request_of(prompts=["first"], output={"heatmap": "none"}))
        two = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        connection.sendall(one + two)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.index(b'"first"') < answer.index(b'"alive"')
