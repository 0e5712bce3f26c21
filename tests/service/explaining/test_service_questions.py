"""Which word, which region, which change: measured beside the maps of a request."""

import json
from typing import Any

import numpy as np
import pytest

from tests.support.answers import check_against_contract, refused
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import Held, RunningApp
from tests.support.target_questions import CAT, DOG, OTHER, Json, engine_of

BOX: Json = {"left": 20, "top": 10, "right": 70, "bottom": 50}
WORDS: Json = {"type": "text", "text": "a red cat", "words": True}
REGION: Json = {"type": "image", "image": data_url(OTHER), "box": BOX}
NO_PICTURES = {"heatmap": "none", "overlay": False}


def ask(running: RunningApp, *targets: Json, **changes: Any) -> Json:
    output = NO_PICTURES | changes.pop("output", {})
    body = request_of(prompts=None, targets=list(targets), output=output, **changes)
    response = running.explain(body)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    check_against_contract(answer, "ExplainResponse")
    return answer


def test_words_are_those_of_the_engine(running: RunningApp) -> None:
    image = encoded(picture(seed=40))
    answer = ask(running, CAT, WORDS, image=data_url(image))
    plain, asked = answer["images"][0]["targets"]
    assert plain["words"] is None
    (text,) = asked["words"]
    engine = engine_of(running)
    ((expected,),) = engine.text.words.read(["a red cat"], None, engine.embed_images([image]))
    assert text["text"] == "a red cat"
    assert [(word["text"], word["start"], word["end"]) for word in text["words"]] == [
        ("a", 0, 1),
        ("red", 2, 5),
        ("cat", 6, 9),
    ]
    assert np.allclose(
        [word["contribution"] for word in text["words"]],
        [word.contribution for word in expected.words],
        atol=1e-6,
    )
    assert text["rest"] == pytest.approx(expected.rest, abs=1e-6)


def test_every_text_of_a_target_has_its_words(running: RunningApp) -> None:
    target = {"type": "text", "texts": ["a cat", "a tabby 猫"], "words": True}
    options = {"templates": ["a photo of a {}", "{}"]}
    answer = ask(running, target, options=options)
    found = answer["images"][0]["targets"][0]["words"]
    assert [each["text"] for each in found] == target["texts"]
    assert [word["text"] for word in found[1]["words"]] == ["a", "tabby", "猫"]


def test_words_of_a_batch_are_those_of_each_request_alone(running: RunningApp) -> None:
    images = [data_url(encoded(picture(seed=seed))) for seed in (51, 52, 53)]
    texts = ["a red cat", "a blue dog on grass", "fish"]
    bodies = [
        request_of(
            image=image,
            prompts=None,
            targets=[{"type": "text", "text": text, "words": True}],
            output=NO_PICTURES,
            options={"cache": False},
        )
        for image, text in zip(images, texts, strict=True)
    ]
    alone = [running.explain(body).json() for body in bodies]
    with Held(running) as held:
        first = running.explain_in_background(request_of(options={"cache": False}))
        assert held.entered.wait(60)
        later = [running.explain_in_background(body) for body in bodies]
        running.wait_for_queue(3)
        held.release()
        assert first.result().status_code == 200
        together = [each.result().json() for each in later]
    assert together[0]["images"][0]["batch_size"] == 3
    for one, other in zip(alone, together, strict=True):
        values = [
            [word["contribution"] for word in each["images"][0]["targets"][0]["words"][0]["words"]]
            for each in (one, other)
        ]
        assert np.allclose(values[0], values[1], atol=1e-6)


def test_a_region_of_another_picture_is_a_target(running: RunningApp) -> None:
    answer = ask(running, REGION, {**REGION, "box": None})
    region, whole = answer["images"][0]["targets"]
    assert region["target"] == "image from 20, 10 to 70, 50"
    assert whole["target"] == "image"
    cut = encoded(picture(seed=9).crop((20, 10, 70, 50)))
    engine = engine_of(running)
    vectors = engine.embed_images([encoded(), OTHER, cut])
    assert whole["similarity"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    # The region of a JPEG file differs from that of the picture by its artefacts.
    assert region["similarity"] == pytest.approx(float(vectors[0] @ vectors[2]), abs=0.05)
    assert region["similarity"] != pytest.approx(whole["similarity"], abs=1e-3)


@pytest.mark.parametrize("change", ["blur", "mean"])
def test_given_regions_are_changed_together(running: RunningApp, change: str) -> None:
    asked = {"regions": [BOX, {"left": 0, "top": 0, "right": 9, "bottom": 9}], "change": change}
    answer = ask(running, CAT, DOG, output={"counterfactual": asked})
    image = answer["images"][0]
    found = image["counterfactual"]
    assert found["change"] == change
    (case,) = found["cases"]
    assert case["warmest_of"] is None
    assert case["regions"] == asked["regions"]
    for target, new in zip(image["targets"], case["targets"], strict=True):
        assert new["change"] == pytest.approx(new["similarity"] - target["similarity"], abs=1e-6)
        assert abs(new["change"]) > 1e-5


def test_the_whole_picture_in_its_mean_colour_is_an_even_picture(running: RunningApp) -> None:
    pixels = np.asarray(picture(seed=61).convert("RGB"))
    whole = {"left": 0, "top": 0, "right": pixels.shape[1], "bottom": pixels.shape[0]}
    answer = ask(
        running,
        CAT,
        image=data_url(encoded(picture(seed=61))),
        output={"counterfactual": {"regions": [whole], "change": "mean"}},
    )
    engine = engine_of(running)
    even = np.broadcast_to(pixels.mean((0, 1)).round().astype(np.uint8), pixels.shape)
    vector = engine.embed_images([np.ascontiguousarray(even)])[0]
    expected = float(vector @ engine.text.encode(["a cat"])[0])
    found = answer["images"][0]["counterfactual"]["cases"][0]["targets"][0]["similarity"]
    assert found == pytest.approx(expected, abs=0.01)


def test_the_warmest_region_of_each_target_is_changed(running: RunningApp) -> None:
    answer = ask(running, CAT, DOG, output={"counterfactual": {}})
    image = answer["images"][0]
    cases = image["counterfactual"]["cases"]
    assert [case["warmest_of"] for case in cases] == [0, 1]
    for case, target in zip(cases, image["targets"], strict=True):
        assert case["regions"] == [target["regions"][0]["box"]]
        assert len(case["targets"]) == 2


def test_cached_traces_give_the_same_counterfactual(running: RunningApp) -> None:
    image = data_url(encoded(picture(seed=71)))
    output = {"counterfactual": {"regions": [BOX]}}
    ask(running, CAT, image=image)
    cached = ask(running, CAT, image=image, output=output)["images"][0]
    fresh = ask(running, CAT, image=image, output=output, options={"cache": False})["images"][0]
    assert cached["cached"] is True
    found = [
        each["counterfactual"]["cases"][0]["targets"][0]["similarity"] for each in (cached, fresh)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize(
    ("targets", "output", "error", "field"),
    [
        ([{**REGION, "box": {**BOX, "right": 81}}], {}, "invalid-target", "targets.0.box"),
        ([CAT, {**REGION, "box": {**BOX, "right": 20}}], {}, "invalid-target", "targets.1.box"),
        ([{**REGION, "box": {**BOX, "right": 30}}], {}, "invalid-target", "targets.0.box"),
        ([{**REGION, "box": {**BOX, "left": -1}}], {}, "invalid-request", "targets.0.box.left"),
        ([{**REGION, "box": {**BOX, "left": 0.5}}], {}, "invalid-request", "targets.0.box.left"),
        ([{**REGION, "box": [1, 2, 3, 4]}], {}, "invalid-request", "targets.0.box"),
        (
            [
                {
                    "type": "contrast",
                    "target": REGION | {"box": BOX | {"bottom": 61}},
                    "against": CAT,
                }
            ],
            {},
            "invalid-target",
            "targets.0.target.box",
        ),
        ([{**CAT, "words": "yes"}], {}, "invalid-request", "targets.0.words"),
        ([{**CAT, "words": None}], {}, "invalid-request", "targets.0.words"),
        (
            [{"type": "contrast", "target": WORDS, "against": CAT}],
            {},
            "invalid-target",
            "targets.0.target.words",
        ),
        (
            [{"type": "residual", "target": CAT, "distractors": [DOG, WORDS]}],
            {},
            "invalid-target",
            "targets.0.distractors.1.words",
        ),
        (
            [CAT],
            {"counterfactual": {"regions": [{**BOX, "right": 81}]}},
            "invalid-option",
            "output.counterfactual",
        ),
        (
            [CAT],
            {"counterfactual": {"regions": [{**BOX, "right": 20}]}},
            "invalid-option",
            "output.counterfactual",
        ),
        (
            [CAT],
            {"counterfactual": {"change": "gone"}},
            "invalid-request",
            "output.counterfactual.change",
        ),
        (
            [CAT],
            {"counterfactual": {"regions": []}},
            "invalid-request",
            "output.counterfactual.regions",
        ),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_wrong_question_is_refused_by_its_place(
    running: RunningApp, targets: list[Json], output: Json, error: str, field: str
) -> None:
    body = request_of(prompts=None, targets=targets, output=NO_PICTURES | output)
    refused(running.explain(body), 422, error, field)


def test_maps_of_heads_have_neither_words_nor_changes(running: RunningApp) -> None:
    options = {"method": "raw-attention", "heads": "each"}
    cases: tuple[tuple[list[Json], Json, str], ...] = (
        ([WORDS], {}, "targets"),
        ([CAT], {"counterfactual": {}}, "output.counterfactual"),
    )
    for targets, output, field in cases:
        body = request_of(
            prompts=None, targets=targets, output=NO_PICTURES | output, options=options
        )
        refused(running.explain(body), 422, "invalid-option", field)


def test_one_request_s_box_outside_does_not_fail_its_batch(running: RunningApp) -> None:
    outside = {"regions": [{**BOX, "right": 8000}]}
    inside = {"regions": [BOX]}
    with Held(running) as held:
        first = running.explain_in_background(request_of(options={"cache": False}))
        assert held.entered.wait(60)
        bad, good = (
            running.explain_in_background(
                request_of(
                    image=data_url(encoded(picture(seed=seed))),
                    output=NO_PICTURES | {"counterfactual": asked},
                )
            )
            for seed, asked in ((81, outside), (82, inside))
        )
        running.wait_for_queue(2)
        held.release()
        assert first.result().status_code == 200
        refused(bad.result(), 422, "invalid-option", "output.counterfactual")
        assert good.result().status_code == 200
