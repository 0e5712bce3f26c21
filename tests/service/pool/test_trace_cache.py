"""A second question about a picture costs less, and its answer is the same."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cached_questions import Counted, answer_to, assert_same, body_of, image_url
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp

# Of pictures that nobody has asked about yet, also when a test runs again.
new_seeds = itertools.count(100)


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
    seed = next(new_seeds)
    url = image_url(seed, 90, 50)
    sideways = data_url(encoded(picture(90, 50, seed=seed), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01"
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
    url = image_url(next(new_seeds), 120, 90)

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


def test_a_request_may_leave_the_cache_alone(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        traces = running.state.pool.traces
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
        # Equal pictures of one batch still share their trace, which needs no cache.
        images = running.explain(
            {"images": [image_url(1)] * 3, "prompts": ["a cat"]}
        ).json()["images"]  # fmt: skip
        assert counted.work["decodes"] == 3
        assert images[0]["targets"] == images[1]["targets"] == images[2]["targets"]
