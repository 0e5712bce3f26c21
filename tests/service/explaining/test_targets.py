"""Every kind of target gives the same maps over HTTP as in the engine."""

import json
import secrets
import struct
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F

from legrad_engine import TextTarget
from legrad_engine.targets import ContrastTarget, EmbeddingTarget, ImageTarget, ResidualTarget
from tests.support.answers import refused
from tests.support.pictures import base64_of, data_url, encoded, picture, request_of
from tests.support.protocols import RAW_MAPS, map_of
from tests.support.running_app import RunningApp
from tests.support.target_questions import (
    CAT,
    DOG,
    IMAGE,
    OTHER,
    SIZE,
    Json,
    ask,
    embedding,
    engine_of,
)


def test_every_kind_is_answered_as_the_engine_answers(running: RunningApp) -> None:
    text = TextTarget("a cat")
    dog, vector = TextTarget("a dog"), EmbeddingTarget(embedding())
    pairs: list[tuple[Json, Any]] = [
        (CAT, "a cat"),
        (
            {"type": "text", "texts": ["a cat", "two red dogs"]},
            TextTarget(texts=("a cat", "two red dogs")),
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


def test_the_picture_itself_as_target_has_similarity_one(running: RunningApp) -> None:
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
    body = {"images": list(map(data_url, pictures)), "targets": targets, "output": RAW_MAPS}
    together = running.explain(body).json()["images"]
    for data, image in zip(pictures, together, strict=True):
        alone = ask(running, *targets, image=data_url(data))
        for found, expected in zip(image["targets"], alone, strict=True):
            assert found["similarity"] == pytest.approx(expected["similarity"], abs=1e-5)
            np.testing.assert_allclose(map_of(found), map_of(expected), atol=1e-6)


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
        ("output", (None, json.dumps(RAW_MAPS))),
    ]
    response = running.client.post("/explain", files=parts)
    assert response.status_code == 200, response.text
    assert response.json()["images"][0]["targets"] == ask(running, *targets)
    wrong = running.client.post("/explain", files=[parts[0], ("targets", (None, "[{"))])
    refused(wrong, 400, "malformed-body", "targets")


def test_texts_of_all_targets_are_counted_as_known(running: RunningApp) -> None:
    word = secrets.token_hex(4)

    def known() -> int:
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
    assert known() == 1
    assert known() == 5
