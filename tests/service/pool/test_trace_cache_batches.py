"""Cached and new pictures in one batch, and equal questions at the same time."""

from typing import Any

import pytest

from legrad_engine.explainer import Explainer
from tests.support.cached_questions import (
    MODEL,
    Counted,
    answer_to,
    assert_same,
    body_of,
    image_url,
)
from tests.support.pictures import data_url, encoded, request_of
from tests.support.running_app import Held, RunningApp


def test_cached_and_new_pictures_are_computed_together(tiny_model: str) -> None:
    seeds = [1, 2, 3, 1, 4, 2, 5, 5]
    asked = [
        body_of(seed, [f"thing {place}", "a cat", "a dog"][: 1 + place % 3])
        for place, seed in enumerate(seeds)
    ]
    with RunningApp(tiny_model) as running:
        alone = [answer_to(running, body | {"options": {"cache": False}}) for body in asked]
        for seed in (1, 3):
            answer_to(running, body_of(seed))
        counted = Counted(running)
        with Held(running) as held:
            first = running.explain_in_background(body_of(9))
            assert held.entered.wait(60)
            answers = []
            for depth, body in enumerate(asked, start=1):
                answers.append(running.explain_in_background(body))
                running.wait_for_queue(depth)
            held.release()
            together = [answer.result(60).json()["images"][0] for answer in answers]
            assert first.result(60).status_code == 200
        assert [image["batch_size"] for image in together] == [len(seeds)] * len(seeds)
        assert [image["cached"] for image in together] == [
            True, False, True, True, False, True, False, True
        ]  # fmt: skip
        for image, expected in zip(together, alone, strict=True):
            assert_same(image, expected)
        # Pictures 2, 4, 5 and 9 are new.
        assert counted.work == {"decodes": 4, "batches forward": 2, "misses": 4, "hits": 5}


@pytest.mark.parametrize("batch", [1, 16])
def test_equal_questions_at_the_same_time_are_computed_once(tiny_model: str, batch: int) -> None:
    """The others arrive while the first is computed or queued."""
    with RunningApp(tiny_model, max_batch_images=batch) as running:
        for seeds in ([1] * 6, [2, *[3] * 6]):
            counted = Counted(running)
            with Held(running) as held:
                answers = [running.explain_in_background(body_of(seeds[0]))]
                assert held.entered.wait(60)
                answers += [running.explain_in_background(body_of(seed)) for seed in seeds[1:]]
                waiting = len(seeds) - 1
                running.wait_for_queue(waiting)
                held.release()
                images = [answer.result(60).json()["images"][0] for answer in answers]
            distinct = len(set(seeds))
            assert counted.work == {
                "decodes": distinct, "batches forward": distinct, "misses": distinct, "hits": 5
            }  # fmt: skip
            assert sum(image["cached"] for image in images) == 5
            for image in images[-5:]:
                assert_same(image, images[-6])


def test_a_request_that_leaves_takes_nothing_from_those_with_the_same_picture(
    tiny_model: str,
) -> None:
    with RunningApp(tiny_model, max_batch_images=1) as running:
        expected = answer_to(running, body_of(1, cache=False))
        counted = Counted(running)
        with Held(running) as held:
            other = running.explain_in_background(body_of(2))
            assert held.entered.wait(60)
            leaving = running.explain(body_of(1), **{"X-Request-Timeout-Ms": "2000"})
            assert leaving.status_code == 504
            staying = running.explain_in_background(body_of(1))
            running.wait_for_queue(1)
            held.release()
            assert_same(staying.result(60).json()["images"][0], expected)
            assert other.result(60).status_code == 200
        assert counted.work["misses"] == 2


def test_a_failure_is_not_shared(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, failures = Explainer.trace, iter([KeyError("only once")])

    def failing_once(self: Explainer, *arguments: Any, **options: Any) -> Any:
        for failure in failures:
            raise failure
        return trace(self, *arguments, **options)

    with RunningApp(tiny_model, max_batch_images=1) as running:
        expected = answer_to(running, body_of(1, cache=False))
        with Held(running) as held:
            monkeypatch.setattr(Explainer, "trace", failing_once)
            answers = [running.explain_in_background(body_of(1))]
            assert held.entered.wait(60)
            answers += [running.explain_in_background(body_of(1)) for _ in range(3)]
            running.wait_for_queue(3)
            held.release()
            responses = [answer.result(60) for answer in answers]
        assert [response.status_code for response in responses] == [500, 200, 200, 200]
        for response in responses[1:]:
            assert_same(response.json()["images"][0], expected)


def test_a_broken_picture_is_reported_with_the_field_of_each_request(running: RunningApp) -> None:
    broken = data_url(encoded()[:-40])
    together = {"images": [image_url(1), broken], "prompts": ["a cat"]}
    answers = [
        running.explain_in_background(request_of(image=broken) if alone else together)
        for alone in (True, False) * 4
    ]
    for place, answer in enumerate(answers):
        problem = answer.result(60).json()
        assert problem["error"] == "image-decode-failed"
        assert problem["field"] == ("images.1" if place % 2 else "image")


def test_a_cached_picture_is_admitted_for_what_it_costs(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=1.7) as running:
        for seed in (1, 2):
            answer_to(running, body_of(seed))
        with Held(running) as held:
            accepted = [running.explain_in_background(body_of(3))]
            assert held.entered.wait(60)
            for depth, seed in enumerate((4, 1), start=1):
                accepted.append(running.explain_in_background(body_of(seed)))
                running.wait_for_queue(depth)
            assert running.model.batcher.queue_cost < 1.7
            assert running.explain(body_of(5)).json()["error"] == "queue-full"
            held.release()
            assert [answer.result(60).status_code for answer in accepted] == [200] * 3


def test_a_trace_evicted_after_admission_still_answers_its_request(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        expected = answer_to(running, body_of(1))
        with Held(running) as held:
            other = running.explain_in_background(body_of(2))
            assert held.entered.wait(60)
            counted = Counted(running)
            waiting = running.explain_in_background(body_of(1))
            running.wait_for_queue(1)
            running.state.pool.traces.forget(MODEL)
            assert len(running.state.pool.traces) == 0
            held.release()
            image = waiting.result(60).json()["images"][0]
            assert other.result(60).status_code == 200
        assert image["cached"]
        assert_same(image, expected)
        assert counted.work["decodes"] == 1
