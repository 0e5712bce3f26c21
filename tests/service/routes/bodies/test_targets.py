"""Targets beside prompts, and negatives, asked over HTTP."""

import base64
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from legrad_engine import Explainer, Negatives, TextTarget
from legrad_engine.targets import ContrastTarget, EmbeddingTarget, ImageTarget, ResidualTarget
from legrad_engine.targets.classifier import Classifier
from tests.support.answers import check_against_contract, refused
from tests.support.pictures import base64_of, bomb, data_url, encoded, picture, request_of
from tests.support.running_app import Held, RunningApp

SIZE = 32
LABELS = ("tench", "tabby", "beagle")
OUTPUT = {"heatmap": "npy", "overlay": False, "regions_threshold": None}

Json = dict[str, Any]
CAT: Json = {"type": "text", "text": "a cat"}
DOG: Json = {"type": "text", "text": "a dog"}
OTHER = encoded(picture(seed=9), "JPEG")
IMAGE: Json = {"type": "image", "image": data_url(OTHER)}


def embedding(seed: int = 0) -> list[float]:
    values: list[float] = np.random.default_rng(seed).normal(size=SIZE).astype("<f4").tolist()
    return values


@pytest.fixture(scope="module")
def classifying(tiny_model: str) -> Iterator[RunningApp]:
    """A server whose model has a classifier."""
    with RunningApp(tiny_model) as started:
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(len(LABELS), SIZE, generator=generator)
        engine_of(started).classifier = Classifier(weight, None, LABELS)
        yield started


def engine_of(running: RunningApp) -> Explainer:
    explainer = running.model.explainer
    assert explainer is not None
    return explainer


def ask(running: RunningApp, *targets: Json, **changes: Any) -> list[Json]:
    body = request_of(targets=list(targets) or None, output=OUTPUT, **{"prompts": None, **changes})
    response = running.explain(body)
    assert response.status_code == 200, response.text
    answer = response.json()
    check_against_contract(answer, "ExplainResponse")
    found: list[Json] = answer["images"][0]["targets"]
    assert len(found) == len(targets) + len(changes.get("prompts") or [])
    return found


def map_of(target: Json) -> NDArray[np.float32]:
    raw: NDArray[np.float32] = np.load(io.BytesIO(base64.b64decode(target["heatmap"])))
    return raw


def test_every_kind_is_answered_as_the_engine_answers(running: RunningApp) -> None:
    text = TextTarget(("a cat",))
    dog, vector = TextTarget(("a dog",)), EmbeddingTarget(embedding())
    pairs: list[tuple[Json, Any]] = [
        (CAT, "a cat"),
        (
            {"type": "text", "texts": ["a cat", "two red dogs"]},
            TextTarget(("a cat", "two red dogs")),
        ),
        ({"type": "embedding", "embedding": embedding()}, vector),
        (IMAGE, ImageTarget(OTHER)),
        ({"type": "contrast", "target": CAT, "against": DOG}, ContrastTarget(text, dog)),
        (
            {"type": "contrast", "target": IMAGE, "against": CAT},
            ContrastTarget(ImageTarget(OTHER), text),
        ),
        (
            {"type": "residual", "target": CAT, "distractors": [DOG, IMAGE], "atoms": 1},
            ResidualTarget(text, (dog, ImageTarget(OTHER)), 1),
        ),
        (
            {
                "type": "residual",
                "target": CAT,
                "distractors": [{"type": "embedding", "embedding": embedding()}],
            },
            ResidualTarget(text, (vector,)),
        ),
    ]
    found = ask(running, *(asked for asked, _ in pairs))
    (expected,) = engine_of(running).explain([encoded()], [target for _, target in pairs])
    for row, target in enumerate(found):
        scale = np.abs(expected.maps[row]).max()
        np.testing.assert_allclose(map_of(target) / scale, expected.maps[row] / scale, atol=1e-4)
        assert target["similarity"] == pytest.approx(expected.similarities[row], abs=1e-5)
        probability = expected.probabilities[row]
        if np.isnan(probability):
            assert target["probability"] is None
        else:
            assert target["probability"] == pytest.approx(probability, abs=1e-5)


def test_targets_are_named(running: RunningApp) -> None:
    found = ask(
        running,
        {"type": "text", "text": "猫"},
        {"type": "text", "texts": ["a cat", "a tabby"]},
        {"type": "embedding", "embedding": embedding()},
        IMAGE,
        {"type": "contrast", "target": CAT, "against": DOG},
        {"type": "residual", "target": IMAGE, "distractors": [CAT, DOG]},
        prompts=["a prompt"],
    )
    assert [(each["target"], each["prompt"]) for each in found] == [
        ("a prompt", "a prompt"),
        ("猫", "猫"),
        ("a cat, a tabby", None),
        ("embedding", None),
        ("image", None),
        ('"a cat" against "a dog"', None),
        ('image without "a cat", "a dog"', None),
    ]


def test_a_long_target_is_named_shortly_and_a_long_prompt_in_full(running: RunningApp) -> None:
    prompt = "a" + " " * 300 + "cat"
    (found,) = ask(running, prompts=[prompt])
    assert found["prompt"] == prompt
    assert len(found["target"]) == 200


def test_prompts_are_short_for_texts_and_come_first(running: RunningApp) -> None:
    together = ask(running, DOG, prompts=["a cat"])
    assert together == ask(running, CAT, DOG) == ask(running, prompts=["a cat", "a dog"])


def test_probabilities_are_shared_by_texts_alone(running: RunningApp) -> None:
    found = ask(running, CAT, IMAGE, DOG)
    assert found[1]["probability"] is None
    assert found[0]["probability"] + found[2]["probability"] == pytest.approx(1)


def test_an_embedding_may_be_base64_of_float32(running: RunningApp) -> None:
    packed = base64_of(struct.pack(f"<{SIZE}f", *embedding()))
    by_list, by_bytes = ask(
        running,
        {"type": "embedding", "embedding": embedding()},
        {"type": "embedding", "embedding": {"b64": packed}},
    )
    assert by_list == by_bytes


def test_what_looks_like_the_picture_itself_has_similarity_one(running: RunningApp) -> None:
    itself = {"type": "image", "image": {"b64": base64_of(encoded())}}
    same, other = ask(running, itself, IMAGE)
    assert same["similarity"] == pytest.approx(1, abs=1e-4)
    assert other["similarity"] < 0.9999


def test_classes_go_by_index_or_label(classifying: RunningApp) -> None:
    explainer = engine_of(classifying)
    assert explainer.classifier is not None
    by_index, by_label, contrast = ask(
        classifying,
        {"type": "class", "index": 1},
        {"type": "class", "label": "beagle"},
        {"type": "contrast", "target": {"type": "class", "index": 0}, "against": CAT},
    )
    assert [by_index["target"], by_label["target"]] == ["class 1: tabby", "class 2: beagle"]
    assert contrast["target"] == 'class 0: tench against "a cat"'
    assert contrast["probability"] is None
    features = explainer.trace([encoded()]).features
    expected = F.linear(features, explainer.classifier.weight).softmax(-1)[0]
    assert by_index["probability"] == pytest.approx(float(expected[1]), abs=1e-5)
    assert by_label["probability"] == pytest.approx(float(expected[2]), abs=1e-5)


def test_several_pictures_are_asked_the_same(running: RunningApp) -> None:
    targets = [CAT, IMAGE, {"type": "contrast", "target": CAT, "against": DOG}]
    pictures = [encoded(picture(seed=seed)) for seed in (1, 2)]
    body = {"images": list(map(data_url, pictures)), "targets": targets, "output": OUTPUT}
    together = running.explain(body).json()["images"]
    for data, image in zip(pictures, together, strict=True):
        alone = ask(running, *targets, image=data_url(data))
        for found, expected in zip(image["targets"], alone, strict=True):
            assert found["similarity"] == pytest.approx(expected["similarity"], abs=1e-5)
            np.testing.assert_allclose(map_of(found), map_of(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ("siglip", "siglip"),
        ({"prompts": ["grass", "red"]}, Negatives(("grass", "red"))),
        ({"prompts": ["grass"], "weight": 0.5}, Negatives(("grass",), weight=0.5)),
        (
            {"prompts": ["grass"], "mode": "mask", "threshold": 0.5},
            Negatives(("grass",), "mask", threshold=0.5),
        ),
    ],
    ids=str,
)
def test_negatives_correct_every_map(running: RunningApp, asked: Any, rule: Any) -> None:
    corrected = ask(running, IMAGE, prompts=["a cat"], options={"negatives": asked})
    plain = ask(running, IMAGE, prompts=["a cat"])
    (expected,) = engine_of(running).explain(
        [encoded()], ["a cat", ImageTarget(OTHER)], negatives=rule
    )
    for row, (found, before) in enumerate(zip(corrected, plain, strict=True)):
        np.testing.assert_allclose(map_of(found), expected.maps[row], atol=1e-6)
        assert np.abs(map_of(found) - map_of(before)).max() > 1e-6
        assert found["similarity"] == pytest.approx(before["similarity"], abs=1e-5)
        assert found["probability"] == before["probability"]


def test_negatives_go_with_templates_and_every_output(running: RunningApp) -> None:
    options = {"negatives": {"prompts": ["a cat"], "weight": 1000.0}, "templates": "simple"}
    response = running.explain(request_of(options=options))
    assert response.status_code == 200, response.text
    (target,) = response.json()["images"][0]["targets"]
    assert target["statistics"]["peak"] >= 0


def test_a_png_may_be_of_any_target(running: RunningApp) -> None:
    body = request_of(prompts=None, targets=[IMAGE])
    response = running.explain(body, Accept="image/png")
    assert response.headers["content-type"] == "image/png"
    both = running.explain(request_of(targets=[IMAGE]), Accept="image/png")
    refused(both, 406, "not-acceptable", "targets")


def test_multipart_takes_targets_as_json(running: RunningApp) -> None:
    targets = [IMAGE, {"type": "residual", "target": CAT, "distractors": [DOG]}]
    parts: list[Any] = [
        ("image", ("cat.png", encoded())),
        ("targets", (None, json.dumps(targets))),
        ("output", (None, json.dumps(OUTPUT))),
    ]
    response = running.client.post("/explain", files=parts)
    assert response.status_code == 200, response.text
    assert response.json()["images"][0]["targets"] == ask(running, *targets)
    wrong = running.client.post("/explain", files=[parts[0], ("targets", (None, "[{"))])
    refused(wrong, 400, "malformed-body", "targets")


def test_texts_of_all_targets_are_counted_as_known(running: RunningApp) -> None:
    def known(word: str) -> int:
        body = request_of(
            prompts=[f"{word} one"],
            targets=[
                {"type": "text", "texts": [f"{word} one", f"{word} two"]},
                {"type": "contrast", "target": CAT, "against": {**DOG, "text": f"{word} three"}},
            ],
            options={"negatives": {"prompts": [f"{word} four"]}},
        )
        count: int = running.explain(body).json()["cached_prompts"]
        return count

    ask(running, CAT)
    assert known("fresh") == 1
    assert known("fresh") == 5


def test_equal_target_pictures_of_a_batch_share_one_forward_pass(
    running: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = engine_of(running).tower
    passes: list[int] = []
    embed = tower.embed
    with Held(running) as held:
        first = running.explain_in_background(request_of(options={"cache": False}))
        assert held.entered.wait(60)
        body = request_of(prompts=None, targets=[IMAGE, CAT])
        later = [
            running.explain_in_background({**body, "image": data_url(encoded(picture(seed=seed)))})
            for seed in (301, 302, 303)
        ]
        running.eventually(lambda: running.model.batcher.queue_depth == 3)
        monkeypatch.setattr(
            tower, "embed", lambda pixels: passes.append(len(pixels)) or embed(pixels)
        )
        held.release()
        assert [each.result().status_code for each in [first, *later]] == [200] * 4
    assert passes[1:] == [1, 3]


def test_one_request_s_impossible_target_does_not_fail_its_batch(running: RunningApp) -> None:
    nothing = {"type": "contrast", "target": CAT, "against": CAT}
    explained = {"type": "residual", "target": DOG, "distractors": [CAT, DOG]}
    with Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        good = running.explain_in_background(request_of(prompts=["a cat"]))
        bad = [
            running.explain_in_background(request_of(prompts=["a cat"], targets=[CAT, target]))
            for target in (nothing, explained)
        ]
        last = running.explain_in_background(request_of(prompts=["a dog"]))
        running.eventually(lambda: running.model.batcher.queue_depth == 4)
        held.release()
        for each in (first, good, last):
            assert each.result().status_code == 200
        assert "same" in refused(bad[0].result(), 422, "invalid-target", "targets.1")
        assert "fully" in refused(bad[1].result(), 422, "invalid-target", "targets.1")


def nested(target: Json) -> Json:
    return {"type": "residual", "target": CAT, "distractors": [DOG, target]}


@pytest.mark.parametrize("depth", [0, 1], ids=["alone", "as a distractor"])
@pytest.mark.parametrize(
    ("target", "status", "error", "within"),
    [
        ({"type": "text", "text": " "}, 422, "invalid-target", ""),
        ({"type": "text", "text": "cat " * 40}, 422, "invalid-target", ""),
        ({"type": "text", "text": "a" * 1001}, 422, "limit-exceeded", ""),
        ({"type": "text"}, 422, "invalid-request", ""),
        ({"type": "text", "text": "a", "texts": ["b"]}, 422, "invalid-request", ""),
        ({"type": "text", "texts": []}, 422, "invalid-request", ".texts"),
        ({"type": "text", "texts": [3]}, 422, "invalid-request", ".texts.0"),
        ({"type": "text", "text": 3}, 422, "invalid-request", ".text"),
        ({"type": "text", "text": "a", "image": "b"}, 422, "invalid-request", ".image"),
        ({"type": "embedding", "embedding": [1.0] * 31}, 422, "invalid-target", ".embedding"),
        ({"type": "embedding", "embedding": [0] * SIZE}, 422, "invalid-target", ".embedding"),
        ({"type": "embedding", "embedding": []}, 422, "invalid-request", ".embedding"),
        ({"type": "embedding", "embedding": ["a"]}, 422, "invalid-request", ".embedding.0"),
        (
            {"type": "embedding", "embedding": [float("nan")] * SIZE},
            422,
            "invalid-request",
            ".embedding.0",
        ),
        ({"type": "embedding", "embedding": {"b64": "é"}}, 422, "invalid-target", ".embedding"),
        ({"type": "embedding", "embedding": {"b64": "AAA="}}, 422, "invalid-target", ".embedding"),
        (
            {"type": "embedding", "embedding": {"b64": base64_of(b"\0\0\x80\x7f" * SIZE)}},
            422,
            "invalid-target",
            ".embedding",
        ),
        ({"type": "image", "image": data_url(b"none")}, 422, "image-decode-failed", ".image"),
        ({"type": "image", "image": "not base64!"}, 422, "image-decode-failed", ".image"),
        ({"type": "image", "image": data_url(bomb())}, 413, "image-too-large", ".image"),
        ({"type": "image", "image": 3}, 422, "invalid-request", ".image"),
        ({"type": "image"}, 422, "invalid-request", ".image"),
        ({"type": "class", "index": 1}, 422, "invalid-target", ""),
        ({"type": "class", "index": -1}, 422, "invalid-request", ".index"),
        ({"type": "class", "index": True}, 422, "invalid-request", ".index"),
        ({"type": "class"}, 422, "invalid-request", ""),
        ({"type": "sound"}, 422, "invalid-request", ""),
        ({"text": "a cat"}, 422, "invalid-request", ""),
        ("a cat", 422, "invalid-request", ""),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_wrong_target_is_named_by_its_place(
    running: RunningApp, target: Any, status: int, error: str, within: str, depth: int
) -> None:
    body = request_of(targets=[CAT, nested(target) if depth else target])
    response = running.client.post(
        "/explain", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    place = "targets.1.distractors.1" if depth else "targets.1"
    refused(response, status, error, place + within)
    assert running.explain().status_code == 200


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"prompts": None}, "invalid-request", "prompts"),
        ({"targets": []}, "invalid-request", "targets"),
        ({"targets": CAT}, "invalid-request", "targets"),
        (
            {"targets": [{"type": "contrast", "target": CAT}]},
            "invalid-request",
            "targets.0.against",
        ),
        (
            {"targets": [{"type": "contrast", "target": nested(DOG), "against": CAT}]},
            "invalid-request",
            "targets.0.target",
        ),
        (
            {"targets": [{"type": "contrast", "target": {"type": "image"}, "against": CAT}]},
            "invalid-request",
            "targets.0.target.image",
        ),
        (
            {"targets": [{"type": "residual", "target": CAT, "distractors": []}]},
            "invalid-request",
            "targets.0.distractors",
        ),
        ({"targets": [nested(CAT) | {"atoms": 0}]}, "invalid-request", "targets.0.atoms"),
        (
            {"targets": [{"type": "residual", "target": CAT, "distractors": [DOG] * 65}]},
            "invalid-request",
            "targets.0.distractors",
        ),
        ({"options": {"negatives": "clip"}}, "invalid-request", "options.negatives"),
        ({"options": {"negatives": {}}}, "invalid-request", "options.negatives.prompts"),
        (
            {"options": {"negatives": {"prompts": ["a"], "mode": "add"}}},
            "invalid-request",
            "options.negatives.mode",
        ),
        (
            {"options": {"negatives": {"prompts": ["a"], "threshold": 1.0}}},
            "invalid-request",
            "options.negatives.threshold",
        ),
        (
            {"options": {"negatives": {"prompts": ["a"], "weight": 0}}},
            "invalid-request",
            "options.negatives.weight",
        ),
        ({"options": {"negatives": {"prompts": [""]}}}, "invalid-target", "options.negatives"),
        (
            {"options": {"negatives": {"prompts": ["a"] * 9}}},
            "limit-exceeded",
            "options.negatives",
        ),
        (
            {"options": {"negatives": {"prompts": ["a" * 1001]}}},
            "limit-exceeded",
            "options.negatives",
        ),
        ({"targets": [CAT] * 8}, "limit-exceeded", "targets"),
        ({"targets": [{"type": "text", "texts": ["a"] * 100}]}, "limit-exceeded", "targets"),
        (
            {
                "targets": [
                    {"type": "image", "image": data_url(encoded(picture(seed=seed)))}
                    for seed in range(4)
                ]
            },
            "limit-exceeded",
            "targets",
        ),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_requests_that_cannot_be_answered_are_refused(
    running: RunningApp, changes: Json, error: str, field: str
) -> None:
    refused(running.explain(request_of(**changes)), 422, error, field)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"type": "class", "index": 3}, "targets.0.index"),
        ({"type": "class", "label": "unicorn"}, "targets.0.label"),
    ],
)
def test_a_class_that_the_classifier_lacks_is_refused(
    classifying: RunningApp, target: Json, field: str
) -> None:
    response = classifying.explain(request_of(prompts=None, targets=[target]))
    refused(response, 422, "invalid-target", field)


def test_a_target_picture_counts_as_work(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=2.0) as running:
        assert running.explain(request_of(targets=[CAT])).status_code == 200
        response = running.explain(request_of(targets=[IMAGE], options={"cache": False}))
        assert (response.status_code, response.json()["error"]) == (422, "too-much-work")
