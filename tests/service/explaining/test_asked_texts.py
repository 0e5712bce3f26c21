"""Answers tell a key nothing of the words and pictures of another key."""

from collections.abc import Iterator
from typing import Any

import pytest

from legrad_engine.targets import TextTarget
from legrad_engine.targets.questions import Question
from service.explaining.asked_texts import AskedTexts
from tests.support.api_keys import bearer, entry, listed
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp

KEYS = listed(entry("a", "key of a", "explain"), entry("b", "key of b", "explain", "metrics"))


@pytest.fixture(scope="module")
def shared(tiny_model: str) -> Iterator[RunningApp]:
    with RunningApp(tiny_model, api_keys=KEYS) as running:
        yield running


def asked(running: RunningApp, key: str, **body: Any) -> tuple[int, bool, float]:
    """Ask with a key; return what the answer tells of caches."""
    answer = running.explain(request_of(**body), **bearer(f"key of {key}")).json()
    return answer["cached_prompts"], answer["images"][0]["cached"], answer["timings"]["decode"]


def test_a_key_learns_nothing_of_what_another_key_asked(shared: RunningApp) -> None:
    prompts = ["a secret of a", "another one"]
    assert asked(shared, "a", prompts=prompts)[:2] == (0, False)
    assert asked(shared, "a", prompts=prompts, output={"overlay": False}) == (2, True, 0.0)
    repeated, cached, decoding = asked(shared, "b", prompts=prompts)
    assert (repeated, cached) == (0, False)
    assert decoding > 0
    assert asked(shared, "b", prompts=prompts)[:2] == (2, True)


def test_without_the_cache_texts_are_computed_anew_and_not_kept(shared: RunningApp) -> None:
    text = shared.model.explainer.resolver.text
    uncached: Any = {"options": {"cache": False}}
    assert asked(shared, "a", prompts=["never kept"], **uncached)[0] == 0
    assert not text.is_cached("never kept")
    assert asked(shared, "a", prompts=["never kept"])[0] == 0
    assert text.is_cached("never kept")
    assert asked(shared, "a", prompts=["never kept"], **uncached)[0] == 0


def test_questions_with_and_without_the_cache_share_a_batch(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        body = request_of(prompts=["a cat", "a dog"])
        first, second = (
            running.explain_in_background({**body, "options": {"cache": cache}})
            for cache in (True, False)
        )
        scores = [
            [each["similarity"] for each in answer.result().json()["images"][0]["targets"]]
            for answer in (first, second)
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def question(*texts: str) -> Question:
    return Question.of([TextTarget(text=text) for text in texts])


def test_texts_count_by_key_model_and_templates() -> None:
    texts = AskedTexts()
    assert texts.count_repeated("a", "m", question("x", "y"), None) == 0
    assert texts.count_repeated("a", "m", question("x", "z"), None) == 1
    assert texts.count_repeated("a", "m", question("x"), ("a photo of {}",)) == 0
    assert texts.count_repeated("a", "n", question("x"), None) == 0
    assert texts.count_repeated("b", "m", question("x", "y"), None) == 0


def test_others_cannot_change_what_a_key_is_told() -> None:
    texts = AskedTexts()
    texts.count_repeated("b", "m", question("secret"), None)
    # Many texts of its own push the secret out; a second caller who asks for it changes nothing.
    texts.count_repeated("b", "m", question(*map(str, range(3_000))), None)
    texts.count_repeated("a", "m", question("secret"), None)
    assert texts.count_repeated("b", "m", question("secret"), None) == 0
