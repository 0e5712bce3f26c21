"""A wrong target or negative is refused with the field that is wrong."""

import json
from typing import Any

import pytest

from tests.support.answers import refused
from tests.support.pictures import base64_of, bomb, data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp
from tests.support.target_questions import CAT, DOG, SIZE, Json, nested


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
