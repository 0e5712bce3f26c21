"""Explanation methods over HTTP: computed, told, priced, bucketed, cached and refused."""

import json
from typing import Any

import numpy as np
import pytest

from legrad_engine.methods.registry import methods
from tests.support.answers import check_against_contract, refused
from tests.support.cached_questions import Counted, answer_to, body_of, maps_of
from tests.support.pictures import base64_of, encoded, picture
from tests.support.running_app import Held, RunningApp

NAMES = [method.name for method in methods()]
PROMPTS = ["a cat", "two dogs"]


def explained(running: RunningApp, seed: int = 1, **options: Any) -> dict[str, Any]:
    answer = running.explain(body_of(seed, PROMPTS, **options))
    assert answer.status_code == 200, answer.text
    check_against_contract(answer.json(), "ExplainResponse")
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_engine(running: RunningApp, name: str) -> None:
    explainer = running.model.explainer
    if name not in [method.name for method in explainer.methods]:
        refused(running.explain(body_of(1, method=name)), 422, "invalid-option", "options.method")
        return
    answer = explained(running, method=name)
    method = explainer.method(name)
    (image,) = answer["images"]
    assert image["method"]["name"] == name
    assert answer["layers"] == list(explainer.resolve_layers(None, name))
    assert answer["score"] == explainer.resolve_score(None, name)
    (expected,) = explainer.explain(picture(seed=1), PROMPTS, method=name)
    found = maps_of(image)
    scale = np.abs(expected.maps).max()
    np.testing.assert_allclose(found / scale, expected.maps / scale, atol=2e-5)
    assert image["method"]["targeted"] is method.targeted
    assert np.array_equal(found[0], found[1]) is not method.targeted


def test_models_list_what_each_offers(running: RunningApp) -> None:
    answer = running.client.get("/models").json()
    check_against_contract(answer, "ModelList")
    offered = answer["models"][0]["methods"]
    explainer = running.model.explainer
    assert [each["name"] for each in offered] == [each.name for each in explainer.methods]
    by_name = {each["name"]: each for each in offered}
    assert by_name["legrad"]["layers"] == [1, 2]
    assert by_name["rollout"] | {"description": "", "source": ""} == {
        "name": "rollout",
        "title": "Attention rollout",
        "description": "",
        "source": "",
        "targeted": False,
        "splits_heads": False,
        "layers": [0, 1, 2],
        "layers_taken": "last-blocks",
        "score": "cls",
        "note": None,
    }
    assert by_name["raw-attention"]["splits_heads"]


def test_each_head_has_an_entry(running: RunningApp) -> None:
    body = body_of(1, ["a cat"], method="raw-attention", heads="each")
    body["output"]["overlay"] = True
    answer = running.explain(body)
    check_against_contract(answer.json(), "ExplainResponse")
    (image,) = answer.json()["images"]
    heads = maps_of(image)
    assert [each["head"] for each in image["targets"]] == [0, 1]
    assert {each["prompt"] for each in image["targets"]} == {"a cat"}
    assert len({each["overlay"] for each in image["targets"]}) == 2
    mean = explained(running, method="raw-attention")["images"][0]
    assert [each["head"] for each in mean["targets"]] == [None, None]
    np.testing.assert_allclose(heads.mean(0), maps_of(mean)[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "options", "field", "reason"),
    [
        ({}, {"method": "gradcan"}, "options.method", "is unknown. This model offers legrad"),
        ({}, {"heads": "each"}, "options.heads", "no map of single heads"),
        (
            {"prompts": PROMPTS},
            {"method": "raw-attention", "heads": "each"},
            "options.heads",
            "ask for one target, not 2",
        ),
        (
            {},
            {"method": "rollout", "negatives": {"prompts": ["a dog"]}},
            "options.negatives",
            "leave them out",
        ),
        ({}, {"method": "rollout", "layers": [0]}, "options.layers", "a number of last blocks"),
        ({}, {"method": "rollout", "score": "mean"}, "options.score", "use score='cls'"),
    ],
    ids=str,
)
def test_a_question_that_a_method_cannot_answer_is_refused(
    running: RunningApp, changes: dict[str, Any], options: dict[str, Any], field: str, reason: str
) -> None:
    answer = running.explain({**body_of(1), **changes, "options": options})
    assert reason in refused(answer, 422, "invalid-option", field)


def test_a_method_that_the_model_does_not_offer_is_refused_with_the_reason(
    running: RunningApp,
) -> None:
    explainer = running.model.explainer
    offered = [method.name for method in explainer.methods]
    kept_back = [method for method in methods() if method.name not in offered]
    assert "bcos" in [method.name for method in kept_back]
    for method in kept_back:
        detail = refused(
            running.explain(body_of(1, method=method.name)), 422, "invalid-option", "options.method"
        )
        reason = method.refusal(explainer.tower)
        assert detail == (
            f"method='{method.name}' is not offered by this model: {reason}. This model offers "
            f"{', '.join(offered)}."
        )
    listed = running.client.get("/models").json()["models"][0]["methods"]
    assert [each["name"] for each in listed] == offered


def test_a_name_that_is_no_name_is_refused_by_the_contract(running: RunningApp) -> None:
    for name in ("", "x" * 65, 7, None):
        refused(running.explain(body_of(1, method=name)), 422, "invalid-request", "options.method")


def test_one_overlay_as_the_answer_is_not_for_every_head(running: RunningApp) -> None:
    body = body_of(1, method="raw-attention", heads="each")
    answer = running.explain(body, Accept="image/jpeg")
    assert answer.status_code == 406
    assert "one of each head" in answer.json()["detail"]


def test_other_protocols_take_and_tell_the_method(running: RunningApp) -> None:
    expected = maps_of(explained(running, method="raw-attention")["images"][0])
    image = encoded(picture(seed=1))
    options = {"method": "raw-attention"}
    client, model = running.client, running.model.id
    body = body_of(1, PROMPTS, **options)

    (kserve,) = client.post(
        f"/v1/models/{model}:explain",
        json={"instances": [body]},
    ).json()["explanations"]
    torchserve = client.post(
        f"/explanations/{model}",
        params={
            "prompts": PROMPTS,
            "options": json.dumps(options),
            "output": json.dumps(body["output"]),
        },
        content=image,
    ).json()
    for found in (kserve, torchserve):
        assert found["method"] == {"name": "raw-attention", "targeted": False, "note": None}
        np.testing.assert_allclose(maps_of(found), expected, rtol=1e-3)

    multipart = client.post(
        "/explain",
        files={"image": image},
        data={
            "prompts": PROMPTS,
            "options": json.dumps(options),
            "output": json.dumps(body["output"]),
        },
    ).json()
    np.testing.assert_allclose(maps_of(multipart["images"][0]), expected, rtol=1e-3)

    tensors = [
        {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data}
        for name, data in (("IMAGE", [base64_of(image)]), ("TEXT", PROMPTS))
    ]
    inferred = client.post(
        f"/v2/models/{model}/infer", json={"inputs": tensors, "parameters": options}
    ).json()
    check_against_contract(inferred, "InferenceResponse")
    assert inferred["parameters"] == {"method": "raw-attention", "targeted": False}
    (maps,) = (np.array(each["data"]) for each in inferred["outputs"] if each["name"] == "HEATMAP")
    np.testing.assert_allclose(maps.reshape(expected.shape), expected, rtol=1e-3)


def test_methods_share_no_batch_and_no_trace(tiny_model: str) -> None:
    asked = ["legrad", "raw-attention", "rollout", "legrad", "raw-attention"]
    with RunningApp(tiny_model) as running:
        alone = [
            maps_of(answer_to(running, body_of(seed, method=name, cache=False)))
            for seed, name in enumerate(asked)
        ]
        counted = Counted(running)
        with Held(running) as held:
            first = running.explain_in_background(body_of(9))
            assert held.entered.wait(60)
            answers = []
            for seed, name in enumerate(asked):
                answers.append(running.explain_in_background(body_of(seed, method=name)))
                running.wait_for_queue(seed + 1)
            held.release()
            images = [answer.result(60).json()["images"][0] for answer in answers]
            assert first.result(60).status_code == 200
        assert [image["batch_size"] for image in images] == [2, 2, 1, 2, 2]
        assert not any(image["cached"] for image in images)
        for image, expected in zip(images, alone, strict=True):
            np.testing.assert_allclose(maps_of(image), expected, rtol=1e-3)
        assert counted.work["misses"] == 6
        # Another question of the same method finds its trace; another method does not.
        again = [
            explained(running, 1, method=name)["images"][0]["cached"]
            for name in ("raw-attention", "legrad")
        ]
        assert again == [True, False]
        assert explained(running, 1, method="legrad")["images"][0]["cached"]


def test_work_is_priced_by_method(running: RunningApp) -> None:
    served = running.model
    explainer = served.explainer
    geometry = explainer.plan((64, 64))

    def cost(name: str, targets: int, *, traced: bool = False) -> float:
        method, layers = explainer.method(name), explainer.resolve_layers(None, name)
        return served.cost(geometry, method, layers, targets, traced=traced)

    assert cost("legrad", 8) == pytest.approx(1 + 0.42 * 2 / 3 * 8)
    assert cost("legrad-libra", 8) == cost("legrad", 8)
    assert cost("rollout", 1) == cost("rollout", 8) > cost("raw-attention", 1)
    assert cost("raw-attention", 1) == cost("raw-attention", 8) < 1.1
    # The queue takes no work without a cost.
    assert 0 < min(cost(each.name, 8, traced=True) for each in explainer.methods) < 0.01
    assert all(cost(method.name, 1) >= 1 for method in explainer.methods)


def test_one_drawing_serves_all_targets_of_a_method_without_targets(tiny_model: str) -> None:
    pixels = 80 * 60
    with RunningApp(tiny_model, max_drawn_pixels=pixels) as running:
        body = body_of(1, PROMPTS, method="rollout") | {"output": {"overlay": False}}
        answer = running.explain(body)
        assert answer.status_code == 200, answer.text
        one, other = answer.json()["images"][0]["targets"]
        assert one["heatmap"] == other["heatmap"]
        assert one["similarity"] != other["similarity"]
        refused(running.explain(body | {"options": {}}), 422, "limit-exceeded", "output")
        each = body_of(1, method="raw-attention", heads="each") | {"output": {"overlay": False}}
        refused(running.explain(each), 422, "limit-exceeded", "output")
