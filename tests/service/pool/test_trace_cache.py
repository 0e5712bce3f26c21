"""What a second question about a picture costs, and that its answer is the same."""

import base64
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from legrad_engine.explainer import Explainer
from legrad_engine.trace import Trace
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import Held, RunningApp, samples

MODEL = "tiny-tiny"


class Counted:
    """How much work an application has done since this was made, by its own metrics."""

    _SAMPLES = {  # noqa: RUF012
        "decodes": f'legrad_compute_seconds_count{{model="{MODEL}",stage="decode"}}',
        "batches forward": f'legrad_compute_seconds_count{{model="{MODEL}",stage="forward"}}',
        "misses": 'legrad_cache_misses_total{cache="traces"}',
        "hits": 'legrad_cache_hits_total{cache="traces"}',
    }

    def __init__(self, running: RunningApp) -> None:
        self._running = running
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        found = samples(self._running.client.get("/metrics").text)
        return {name: found[sample] for name, sample in self._SAMPLES.items()}

    @property
    def work(self) -> dict[str, float]:
        now = self._now()
        return {name: now[name] - self._before[name] for name in now}


def image_url(seed: int, width: int = 80, height: int = 60) -> str:
    return data_url(encoded(picture(width, height, seed=seed)))


def body_of(seed: int, prompts: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """A question that is answered in numbers alone."""
    return request_of(
        image=image_url(seed),
        prompts=prompts or ["a cat"],
        options=options,
        output={"heatmap": "npy", "overlay": False},
    )


def maps_of(image: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.stack(
        [np.load(io.BytesIO(base64.b64decode(each["heatmap"]))) for each in image["targets"]]
    )


def assert_same(image: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(maps_of(image), maps_of(expected), rtol=1e-5, atol=1e-9)
    for one, other in zip(image["targets"], expected["targets"], strict=True):
        assert one["prompt"] == other["prompt"]
        assert one["similarity"] == pytest.approx(other["similarity"], abs=1e-6)
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    for field in ("size", "input_size", "grid"):
        assert image[field] == expected[field]


def answer_to(running: RunningApp, body: dict[str, Any]) -> dict[str, Any]:
    response = running.explain(body)
    assert response.status_code == 200, response.text
    image: dict[str, Any] = response.json()["images"][0]
    return image


@pytest.fixture(scope="module")
def serving(tiny_model: str) -> Iterator[RunningApp]:
    with RunningApp(tiny_model) as started:
        yield started


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "squash"},
        {"fit": "pad"},
        {"fit": "native"},
        {"size": 96},
        {"fit": "native", "size": 128},
        {"layers": "all"},
        {"layers": [0, -1]},
        {"score": "cls"},
        {"templates": "simple"},
    ],
    ids=str,
)
def test_a_second_question_is_answered_the_same_without_decoding_or_forward_pass(
    serving: RunningApp, options: dict[str, Any]
) -> None:
    fresh = answer_to(serving, body_of(1, ["a dog", "a tree"], cache=False, **options))
    answer_to(serving, body_of(1, ["a cat"], **options))
    counted = Counted(serving)
    second = answer_to(serving, body_of(1, ["a dog", "a tree"], **options))
    assert counted.work == {"decodes": 0, "batches forward": 0, "misses": 0, "hits": 1}
    assert (fresh["cached"], second["cached"]) == (False, True)
    assert_same(second, fresh)


def test_only_the_same_computation_on_the_same_bytes_is_the_same_question(
    serving: RunningApp,
) -> None:
    url = image_url(2, 90, 50)
    sideways = data_url(encoded(picture(90, 50, seed=2), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01"
                                b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"))  # fmt: skip
    questions: list[dict[str, Any]] = [
        {"image": url},
        {"image": sideways},
        {"image": url, "options": {"fit": "pad"}},
        {"image": url, "options": {"fit": "native"}},
        {"image": url, "options": {"size": 96}},
        {"image": url, "options": {"layers": 1}},
        {"image": url, "options": {"layers": "all"}},
        {"image": url, "options": {"score": "cls"}},
    ]
    first = [answer_to(serving, request_of(**each)) for each in questions]
    assert [image["cached"] for image in first] == [False] * len(questions)
    assert first[1]["size"] == {"width": 50, "height": 90}
    again = [answer_to(serving, request_of(**each)) for each in questions]
    assert [image["cached"] for image in again] == [True] * len(questions)
    for one, other in zip(first, again, strict=True):
        for field in ("size", "input_size", "grid"):
            assert one[field] == other[field]
    # The model's own size is the same whether it is written or not, and so are equal layers.
    for options in ({"size": 64}, {"layers": [1, 2]}, {"layers": [-2, -1]}):
        assert answer_to(serving, request_of(image=url, options=options))["cached"]


def test_a_picture_is_decoded_again_only_for_a_drawing_of_another_size(serving: RunningApp) -> None:
    url = image_url(3, 120, 90)

    def asked(**output: Any) -> tuple[dict[str, Any], dict[str, float]]:
        counted = Counted(serving)
        body = request_of(image=url, output=output)
        image = answer_to(serving, body)
        uncached = answer_to(serving, body | {"options": {"cache": False}})
        assert [target["overlay"] for target in image["targets"]] == [
            target["overlay"] for target in uncached["targets"]
        ]
        work = counted.work
        return image, {name: work[name] - 1 for name in ("decodes", "batches forward")}

    for output, decodes, forward in (
        ({"overlay": False, "heatmap": "none"}, 1, 1),
        ({"overlay": False, "heatmap": "png"}, 0, 0),
        ({"overlay": True}, 1, 0),
        ({"overlay": True, "alpha": 0.0}, 0, 0),
        ({"overlay": True, "max_side": 500}, 0, 0),
        ({"overlay": True, "max_side": 60}, 1, 0),
        ({"overlay": True, "max_side": 60, "colormap": "viridis"}, 0, 0),
        ({"overlay": True, "max_side": 120}, 0, 0),
        ({"overlay": False, "heatmap": "png", "max_side": 33}, 0, 0),
    ):
        _, work = asked(**output)
        assert work == {"decodes": decodes, "batches forward": forward}, output


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
                running.eventually(lambda depth=depth: running.model.batcher.queue_depth == depth)
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
    """The first is being computed, or waits, while the others come."""
    with RunningApp(tiny_model, max_batch_images=batch) as running:
        for seeds in ([1] * 6, [2, *[3] * 6]):
            counted = Counted(running)
            with Held(running) as held:
                answers = [running.explain_in_background(body_of(seeds[0]))]
                assert held.entered.wait(60)
                answers += [running.explain_in_background(body_of(seed)) for seed in seeds[1:]]
                waiting = len(seeds) - 1
                running.eventually(
                    lambda waiting=waiting: running.model.batcher.queue_depth == waiting
                )
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
            running.eventually(lambda: running.model.batcher.queue_depth == 1)
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
            running.eventually(lambda: running.model.batcher.queue_depth == 3)
            held.release()
            responses = [answer.result(60) for answer in answers]
        assert [response.status_code for response in responses] == [500, 200, 200, 200]
        for response in responses[1:]:
            assert_same(response.json()["images"][0], expected)


def test_a_broken_picture_is_blamed_on_each_requests_own_field(serving: RunningApp) -> None:
    broken = data_url(encoded()[:-40])
    together = {"images": [image_url(1), broken], "prompts": ["a cat"]}
    answers = [
        serving.explain_in_background(request_of(image=broken) if alone else together)
        for alone in (True, False) * 4
    ]
    for place, answer in enumerate(answers):
        problem = answer.result(60).json()
        assert problem["error"] == "image-decode-failed"
        assert problem["field"] == ("images.1" if place % 2 else "image")


def test_a_request_may_leave_the_cache_alone(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        traces = running.app.state.pool.traces
        counted = Counted(running)
        for _ in range(2):
            assert not answer_to(running, request_of(options={"cache": False}))["cached"]
        assert len(traces) == 0
        assert counted.work == {"decodes": 2, "batches forward": 2, "misses": 0, "hits": 0}
        answer_to(running, request_of())
        before = traces.nbytes
        assert not answer_to(running, request_of(options={"cache": False}))["cached"]
        assert counted.work == {"decodes": 4, "batches forward": 4, "misses": 1, "hits": 0}
        assert traces.nbytes == before


def test_a_setting_turns_the_cache_off(tiny_model: str) -> None:
    with RunningApp(tiny_model, trace_cache_bytes=0) as running:
        counted = Counted(running)
        for _ in range(2):
            assert not answer_to(running, request_of())["cached"]
        assert counted.work == {"decodes": 2, "batches forward": 2, "misses": 2, "hits": 0}
        assert running.metric('legrad_cache_entries{cache="traces"}') == 0
        # Those of one batch still share, as nothing is kept for it.
        images = running.explain(
            {"images": [image_url(1)] * 3, "prompts": ["a cat"]}
        ).json()["images"]  # fmt: skip
        assert counted.work["decodes"] == 3
        assert images[0]["targets"] == images[1]["targets"] == images[2]["targets"]


def test_the_budget_is_kept_and_the_oldest_goes(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        answer_to(running, body_of(1))
        size = running.app.state.pool.traces.nbytes
    with RunningApp(tiny_model, trace_cache_bytes=int(2.5 * size)) as running:
        for seed in (1, 2, 1, 3):
            answer_to(running, body_of(seed))
        assert running.metric('legrad_cache_bytes{cache="traces"}') == 2 * size
        assert running.metric('legrad_cache_entries{cache="traces"}') == 2
        assert running.metric('legrad_cache_evictions_total{cache="traces"}') == 1
        assert answer_to(running, body_of(1))["cached"]
        assert not answer_to(running, body_of(2))["cached"]
    with RunningApp(tiny_model, trace_cache_bytes=size - 1) as running:
        for _ in range(2):
            assert not answer_to(running, body_of(1))["cached"]
        assert running.metric('legrad_cache_entries{cache="traces"}') == 0


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from tensors_in(each)


def test_a_kept_trace_holds_no_more_memory_than_is_counted(tiny_model: str) -> None:
    """A view would keep the memory of its whole batch alive."""
    with RunningApp(tiny_model) as running:
        body = {
            "images": [image_url(seed) for seed in range(8)],
            "prompts": ["a cat"],
            "output": {"overlay": False},
        }
        batches = {image["batch_size"] for image in running.explain(body).json()["images"]}
        assert max(batches) > 1
        traces = running.app.state.pool.traces
        held = [
            tensor.untyped_storage().nbytes()
            for entry in traces._entries.values()
            for tensor in tensors_in(entry)
        ]
        assert len(traces) == 8
        assert sum(held) == traces.nbytes == running.metric('legrad_cache_bytes{cache="traces"}')


def test_a_cached_picture_is_admitted_for_what_it_costs(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=1.7) as running:
        for seed in (1, 2):
            answer_to(running, body_of(seed))
        with Held(running) as held:
            accepted = [running.explain_in_background(body_of(3))]
            assert held.entered.wait(60)
            for depth, seed in enumerate((4, 1), start=1):
                accepted.append(running.explain_in_background(body_of(seed)))
                running.eventually(lambda depth=depth: running.model.batcher.queue_depth == depth)
            assert running.model.batcher.queue_cost < 1.7
            assert running.explain(body_of(5)).json()["error"] == "queue-full"
            held.release()
            assert [answer.result(60).status_code for answer in accepted] == [200] * 3


def test_what_is_dropped_after_admission_is_answered_all_the_same(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        expected = answer_to(running, body_of(1))
        with Held(running) as held:
            other = running.explain_in_background(body_of(2))
            assert held.entered.wait(60)
            counted = Counted(running)
            waiting = running.explain_in_background(body_of(1))
            running.eventually(lambda: running.model.batcher.queue_depth == 1)
            running.app.state.pool.traces.forget(MODEL)
            assert len(running.app.state.pool.traces) == 0
            held.release()
            image = waiting.result(60).json()["images"][0]
            assert other.result(60).status_code == 200
        assert image["cached"]
        assert_same(image, expected)
        assert counted.work["decodes"] == 1


def test_the_cache_gives_way_when_memory_is_short(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no room at all")

    with RunningApp(tiny_model) as running:
        answer_to(running, body_of(1))
        assert running.metric('legrad_cache_entries{cache="traces"}') == 1
        with monkeypatch.context() as patch:
            patch.setattr(Explainer, "trace", full)
            assert running.explain(body_of(2)).status_code == 503
        assert running.metric('legrad_cache_entries{cache="traces"}') == 0
        assert not answer_to(running, body_of(1))["cached"]


def test_a_trace_that_cannot_be_kept_is_still_answered(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room for a copy")

    with RunningApp(tiny_model) as running:
        answer_to(running, body_of(1))
        with monkeypatch.context() as patch:
            patch.setattr(Trace, "select", full)
            assert not answer_to(running, body_of(2))["cached"]
        assert running.metric('legrad_cache_entries{cache="traces"}') == 0


def test_nothing_but_the_cache_outlives_a_request(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        pictures = running.app.state.explaining._preparation._pictures
        for seed in range(3):
            answer_to(running, request_of(image=image_url(seed)))
        running.explain(request_of(image=data_url(b"no picture")))
        running.eventually(lambda: not any(map(len, pictures._shared.values())))
