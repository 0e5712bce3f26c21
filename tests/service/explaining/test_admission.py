"""Admission: slow bodies, the cost of texts and full queues; health and offline documentation."""

import re
import socket
import time
from collections import Counter
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
from PIL import Image

from service.batching import QueueFullError
from service.errors import TooManyRequestsError
from service.pictures.jobs import Decode
from service.pictures.workers import PictureWorkers
from tests.support.answers import refused
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.raw_requests import HEAD
from tests.support.running_app import Held, RunningApp


def answer_to_a_body_that_stops_halfway(running: RunningApp) -> bytes:
    with socket.create_connection((running.host, running.port), timeout=30) as connection:
        connection.sendall(
            HEAD + b'X-Request-Timeout-Ms: 200\r\nContent-Length: 1000\r\n\r\n{"image": '
        )
        return connection.recv(65536)


def test_a_body_that_does_not_arrive_in_time_is_given_up(running: RunningApp) -> None:
    answer = answer_to_a_body_that_stops_halfway(running)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"error":"slow-body"' in answer
    assert running.metric("legrad_requests_in_progress") == 0
    assert running.explain().status_code == 200


def test_a_slow_body_holds_one_of_the_places(tiny_model: str) -> None:
    with (
        RunningApp(tiny_model, max_requests_in_progress=1) as running,
        socket.create_connection((running.host, running.port), timeout=30) as connection,
    ):
        connection.sendall(HEAD + b'Content-Length: 1000\r\n\r\n{"image": ')
        running.eventually(lambda: running.metric("legrad_requests_in_progress") == 1)
        refused = running.explain()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1


def unlike(seed: int) -> dict[str, Any]:
    return request_of(image=data_url(encoded(picture(40, 40, seed=seed))))


def test_a_full_queue_says_no_before_the_body_is_sent(tiny_model: str) -> None:
    with (
        RunningApp(tiny_model) as running,
        running.full(),
        socket.create_connection((running.host, running.port), timeout=30) as connection,
    ):
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b'"error":"queue-full"' in answer
        assert re.search(rb"(?i)\r\nretry-after: [1-9]", answer)


def test_the_first_promise_is_made_from_what_warming_up_took(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running, Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        # The rate of the warm-up already shows that the deadline is too short.
        with pytest.raises(QueueFullError, match="no time"):
            running.model.batcher.check(100.0, time.monotonic() + 0.01)
        held.release()
        assert first.result(60).status_code == 200


def test_a_queue_smaller_than_a_picture_says_so(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=0.5) as running:
        refused(running.explain(), 422, "too-much-work", None)


def test_nothing_is_decoded_that_is_then_refused(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Decode] = []
    decode = PictureWorkers.decode

    async def counting(self: PictureWorkers, owner: str, task: Decode, request: object) -> Any:
        decoded.append(task)
        return await decode(self, owner, task, request)

    monkeypatch.setattr(PictureWorkers, "decode", counting)
    with RunningApp(tiny_model, max_queue_cost=4, max_batch_images=1) as running:
        with Held(running):
            answers = [running.explain_in_background(unlike(number)) for number in range(40)]
            running.eventually(lambda: sum(answer.done() for answer in answers) >= 30)
        statuses = Counter(answer.result().status_code for answer in answers)
    assert statuses.keys() == {200, 429}
    assert len(decoded) == statuses[200]


def from_address(running: RunningApp, address: str, seed: int) -> "Future[httpx.Response]":
    return running.explain_in_background(unlike(seed), **{"X-Forwarded-For": address})


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ({"max_queue_cost": 32.0}, "queue-full"),
        ({"max_requests_in_progress": 32}, "too-many-requests"),
    ],
)
def test_a_caller_with_little_work_is_admitted_where_callers_with_much_are_refused(
    tiny_model: str, limit: dict[str, Any], problem: str
) -> None:
    with (
        RunningApp(tiny_model, max_batch_images=1, trusted_proxies="127.0.0.1", **limit) as running,
        Held(running) as held,
    ):
        heavy = [from_address(running, f"10.0.0.{number % 3}", number) for number in range(56)]
        running.eventually(lambda: sum(answer.done() for answer in heavy) >= 20)
        refusals = [answer.result() for answer in heavy if answer.done()]
        assert {answer.status_code for answer in refusals} == {429}
        assert {answer.json()["error"] for answer in refusals} == {problem}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refusals)
        light = from_address(running, "10.0.0.99", 99)
        # Once it is decoded, its picture is queued.
        decoded = running.model.batcher.queue_depth
        running.eventually(lambda: light.done() or running.model.batcher.queue_depth > decoded)
        held.release()
        assert light.result(60).status_code == 200


def test_drawings_of_a_caller_leave_room_for_those_of_others(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_drawn_pixels_in_progress=8000) as running:
        admission = running.state.explaining.admission
        with admission.reserve("heavy") as heavy, admission.reserve("light") as light:
            admission.reserve_drawings(heavy, 8000)
            with pytest.raises(TooManyRequestsError):
                admission.reserve_drawings(heavy, 100)
            admission.reserve_drawings(light, 100)
        with admission.reserve("heavy") as heavy:
            admission.reserve_drawings(heavy, 8000)


def test_a_deadline_leaves_time_to_draw_a_batch_of_the_size_that_the_model_has(
    tiny_model: str,
) -> None:
    with (
        RunningApp(tiny_model, max_batch_images=16, picture_processes=1) as running,
        Held(running) as held,
    ):
        # As the warm-up of an accelerator may find it.
        running.model.max_batch_images = 1
        first = running.explain_in_background(unlike(1))
        assert held.entered.wait(60)
        running.workers.capacity.record("draw", 1.0)
        second = running.explain_in_background(unlike(2), **{"X-Request-Timeout-Ms": "20000"})
        running.eventually(lambda: second.done() or running.model.batcher.queue_depth == 1)
        held.release()
        assert first.result(60).status_code == 200
        assert second.result(60).status_code == 200


@pytest.mark.parametrize(("targets", "status"), [(15, 429), (1, 200)])
def test_target_pictures_that_leave_no_time_are_refused_at_once(
    tiny_model: str, targets: int, status: int
) -> None:
    with RunningApp(tiny_model, picture_processes=1) as running, Held(running) as held:
        first = running.explain_in_background(unlike(1))
        assert held.entered.wait(60)
        for _ in range(100):
            running.workers.capacity.record("decode", 2.0)
        body = request_of(
            image=data_url(encoded(picture(40, 40, seed=2))),
            prompts=None,
            targets=[
                {"type": "image", "image": data_url(encoded(picture(30, 30, seed=10 + number)))}
                for number in range(targets)
            ],
        )
        asked = running.explain_in_background(body, **{"X-Request-Timeout-Ms": "30000"})
        running.eventually(lambda: asked.done() or running.model.batcher.queue_depth == 1)
        # The others are as quick as ever.
        assert asked.done() == (status == 429)
        held.release()
        assert first.result(60).status_code == 200
        answer = asked.result(60)
        assert answer.status_code == status
        assert status == 200 or int(answer.headers["Retry-After"]) >= 1


WIDE = data_url(encoded(Image.new("RGB", (16_500, 4), "red")))


@pytest.mark.parametrize(
    ("output", "field"),
    [
        ({"format": "webp", "heatmap": "none"}, "output.format"),
        ({"format": "webp", "heatmap": "webp"}, "output.heatmap"),
        ({"format": "webp", "heatmap": "webp", "overlay": False}, "output.heatmap"),
        ({"format": "webp", "heatmap": "png", "overlay": False}, None),
        ({"format": "png"}, None),
    ],
)
def test_a_format_that_cannot_hold_the_drawing_is_refused_before_the_queue(
    tiny_model: str, output: dict[str, Any], field: str | None
) -> None:
    body = request_of(image=WIDE, output={"max_side": 20_000, **output})
    with RunningApp(tiny_model, max_output_side=20_000) as running, Held(running) as held:
        asked = running.explain_in_background(body, **{"X-Request-Timeout-Ms": "30000"})
        running.eventually(lambda: asked.done() or held.entered.is_set())
        assert held.entered.is_set() == (field is None)
        held.release()
        if field is None:
            assert asked.result(60).status_code == 200
        else:
            refused(asked.result(60), 422, "invalid-option", field)


def test_texts_to_encode_count_as_work(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=2.0, max_texts=1000) as running:
        body = request_of(prompts=["a cat"], options={"templates": "openai"})
        refused = running.explain(body)
        assert (refused.status_code, refused.json()["error"]) == (422, "too-much-work")
        assert running.explain(request_of(prompts=["a cat"])).status_code == 200


def test_balancers_may_ask_for_health_by_head(running: RunningApp) -> None:
    for path in ("/health/live", "/health/ready"):
        assert running.client.head(path).status_code == 200


def test_the_documentation_page_loads_nothing_from_elsewhere(running: RunningApp) -> None:
    page = running.client.get("/docs").text
    assert "://" not in page
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    for source in sources:
        assert running.client.get(source).status_code == 200
