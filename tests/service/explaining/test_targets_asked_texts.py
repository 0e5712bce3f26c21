"""Answers tell a key nothing of the words and pictures of another key."""

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from legrad_engine.targets import TextTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.templates import Templates
from service.explaining.targets import AskedTexts
from tests.support.answers import refused
from tests.support.api_keys import bearer, entry, listed
from tests.support.pictures import data_url, encoded, picture, request_of, unseen
from tests.support.recording_batcher import reserved
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
    body: Any = {
        "image": data_url(encoded(unseen())),
        "prompts": [secrets.token_hex(4) for _ in range(2)],
    }
    assert asked(shared, "a", **body)[:2] == (0, False)
    assert asked(shared, "a", **body, output={"overlay": False}) == (2, True, 0.0)
    repeated, cached, decoding = asked(shared, "b", **body)
    assert (repeated, cached) == (0, False)
    assert decoding > 0
    assert asked(shared, "b", **body)[:2] == (2, True)


def test_without_the_cache_texts_are_computed_anew_and_not_kept(shared: RunningApp) -> None:
    text = shared.model.explainer.resolver.text
    prompt = secrets.token_hex(4)
    uncached: Any = {"options": {"cache": False}}
    assert asked(shared, "a", prompts=[prompt], **uncached)[0] == 0
    assert not text.is_cached(prompt)
    assert asked(shared, "a", prompts=[prompt])[0] == 0
    assert text.is_cached(prompt)
    assert asked(shared, "a", prompts=[prompt], **uncached)[0] == 0


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


# As much work as an image.
TEMPLATES = [f"{number} of {{}}" for number in range(40)]
IMAGES = 3


def probe(prompt: str, images: int = IMAGES) -> dict[str, Any]:
    """Return a request of which the text is much of the work."""
    return {
        "images": [data_url(encoded(picture(seed=seed))) for seed in range(images)],
        "prompts": [prompt],
        "options": {"templates": TEMPLATES},
    }


def cost_of(running: RunningApp, strings: int) -> float:
    """Return the cost of a probe of which so many strings are not cached."""
    served, explainer = running.model, running.model.explainer
    own = explainer.plan(explainer.own_size)
    image = served.cost(own, explainer.method(), explainer.resolve_layers(), 1)
    return sum([image] * IMAGES) + 0.03 * strings


@pytest.fixture(scope="module")
def whole(shared: RunningApp) -> float:
    """The cost of a probe if nothing is cached."""
    return cost_of(shared, len(TEMPLATES))


@pytest.mark.parametrize(
    ("room", "images"), [(-1e-9, IMAGES), (-0.6, IMAGES), (0.0, 2 * IMAGES)], ids=str
)
def test_a_request_too_large_for_the_queue_is_refused_alike_whatever_others_asked(
    tiny_model: str, whole: float, room: float, images: int
) -> None:
    with RunningApp(tiny_model, api_keys=KEYS, max_queue_cost=whole + room) as running:
        assert running.explain(probe("secret", 1), **bearer("key of a")).status_code == 200
        known, unknown = (
            refused(
                running.explain(probe(text, images), **bearer("key of b")),
                422,
                "too-much-work",
                None,
            )
            for text in ("secret", "other?")
        )
        assert known == unknown


def test_a_request_as_large_as_the_queue_is_answered_whatever_others_asked(
    tiny_model: str, whole: float
) -> None:
    with RunningApp(tiny_model, api_keys=KEYS, max_queue_cost=whole) as running:
        assert running.explain(probe("secret", 1), **bearer("key of a")).status_code == 200
        for text in ("secret", "other?"):
            assert running.explain(probe(text), **bearer("key of b")).status_code == 200


def test_a_full_queue_refuses_alike_whatever_others_asked(tiny_model: str, whole: float) -> None:
    with RunningApp(tiny_model, api_keys=KEYS, max_queue_cost=whole) as running:
        assert running.explain(probe("secret", 1), **bearer("key of a")).status_code == 200
        # Room for the images, and for half of the strings.
        room = cost_of(running, len(TEMPLATES) // 2)
        with reserved(running.model.batcher, whole - room, "another"):
            answers = [
                running.explain(probe(text), **bearer("key of b")) for text in ("secret", "other?")
            ]
        assert [each.status_code for each in answers] == [429, 429]
        assert answers[0].json()["detail"] == answers[1].json()["detail"]
        assert answers[0].headers["retry-after"] == answers[1].headers["retry-after"]
        # The key's own texts count for what they cost.
        assert running.explain(probe("secret"), **bearer("key of b")).status_code == 200
        with reserved(running.model.batcher, whole - room, "another"):
            own = running.explain(probe("secret"), **bearer("key of b"))
        assert own.status_code == 200


def question(*texts: str) -> Question:
    return Question.of([TextTarget(text=text) for text in texts])


def asked_again(
    texts: AskedTexts, key: str, model: str, asked: Question, templates: Templates = None
) -> int:
    """Ask; return how many of the texts the key asked before."""
    known = texts.count(key, model, asked, templates).known
    texts.remember(key, model, asked, templates)
    return known


def test_texts_count_by_key_model_and_templates() -> None:
    texts = AskedTexts()
    assert asked_again(texts, "a", "m", question("x", "y")) == 0
    assert asked_again(texts, "a", "m", question("x", "z")) == 1
    assert asked_again(texts, "a", "m", question("x"), ("a photo of {}",)) == 0
    assert asked_again(texts, "a", "n", question("x")) == 0
    assert asked_again(texts, "b", "m", question("x", "y")) == 0


def test_texts_that_are_not_known_count_with_every_template() -> None:
    texts = AskedTexts()
    texts.remember("a", "m", question("x"), ("{}", "a photo of {}"))
    assert texts.count("a", "m", question("x", "y", "z"), ("{}", "a photo of {}")) == (1, 2, 4)


def test_others_cannot_change_what_a_key_is_told() -> None:
    texts = AskedTexts()
    texts.remember("b", "m", question("secret"), None)
    # Many texts of its own push the secret out; a second caller who asks for it changes nothing.
    texts.remember("b", "m", question(*map(str, range(3_000))), None)
    texts.remember("a", "m", question("secret"), None)
    assert texts.count("b", "m", question("secret"), None).known == 0
