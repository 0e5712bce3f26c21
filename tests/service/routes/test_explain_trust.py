"""`output.trust` over HTTP: measured, batched, cached, priced, told by other protocols, refused."""

import json
from typing import Any, get_args

import numpy as np
import pytest

from legrad_engine.measurements.trust.levels import TrustLevel
from tests.support.answers import check_against_contract, refused
from tests.support.cached_questions import Counted, body_of
from tests.support.measured_trust import trust_of
from tests.support.pictures import base64_of, encoded, picture
from tests.support.running_app import Held, RunningApp

PROMPTS = ["a cat", "two dogs"]
PARTS = ("agreement", "perturbation", "curves")


def asking(seed: int, level: str, prompts: list[str] | None = None, **options: Any) -> Any:
    body = body_of(seed, prompts or PROMPTS, **options)
    body["output"]["trust"] = level
    return body


def trusts(image: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["trust"] for each in image["targets"]]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    assert {name for name in PARTS if found[name]} == {name for name in PARTS if expected[name]}
    for part in PARTS:
        for name, value in (expected[part] or {}).items():
            if isinstance(value, float):
                value = pytest.approx(value, abs=tolerance)
            assert found[part][name] == value, name


@pytest.mark.parametrize("level", get_args(TrustLevel))
def test_the_answer_has_the_engines_numbers(running: RunningApp, level: Any) -> None:
    answer = running.explain(asking(1, level))
    assert answer.status_code == 200, answer.text
    check_against_contract(answer.json(), "ExplainResponse")
    explainer = running.model.explainer
    image = explainer.prepare(picture(seed=1))
    ((_, expected),) = trust_of(explainer, [image], level, PROMPTS)
    for found, own in zip(trusts(answer.json()["images"][0]), expected, strict=True):
        assert found["level"] == level
        for part in PARTS:
            measured = getattr(own, part)
            assert (found[part] is None) is (measured is None)
            for name in found[part] or ():
                value = getattr(measured, name)
                if isinstance(value, float):
                    value = pytest.approx(value, abs=1e-4)
                assert found[part][name] == value, name


def test_nothing_is_measured_unless_it_is_asked_for(running: RunningApp) -> None:
    (image,) = running.explain(body_of(1, PROMPTS)).json()["images"]
    assert trusts(image) == [None, None]


def test_a_cached_picture_is_decoded_again_but_traced_once(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        (first,) = running.explain(asking(1, "quick")).json()["images"]
        counted = Counted(running)
        (free,) = running.explain(asking(1, "free")).json()["images"]
        assert counted.work == {"decodes": 0, "batches forward": 0, "misses": 0, "hits": 1}
        (again,) = running.explain(asking(1, "quick")).json()["images"]
        assert counted.work == {"decodes": 1, "batches forward": 0, "misses": 0, "hits": 2}
        assert again["cached"]
        assert free["cached"]
        for one, other in zip(trusts(again), trusts(first), strict=True):
            assert_close(one, other)
        name = 'legrad_compute_seconds_count{model="tiny-tiny",stage="measure"}'
        assert running.metric(name) == 3


def test_equal_questions_share_a_batch_and_others_do_not(tiny_model: str) -> None:
    asked = [(1, "quick"), (2, "quick"), (3, "free"), (4, None), (5, "quick")]
    with RunningApp(tiny_model) as running:
        alone = [
            running.explain(asking(seed, level or "free", ["a cat"], cache=False))
            for seed, level in asked
        ]
        with Held(running) as held:
            first = running.explain_in_background(body_of(9))
            assert held.entered.wait(60)
            answers = []
            for place, (seed, level) in enumerate(asked):
                body = asking(seed, level, ["a cat"]) if level else body_of(seed)
                answers.append(running.explain_in_background(body))
                running.wait_for_queue(place + 1)
            held.release()
            images = [answer.result(60).json()["images"][0] for answer in answers]
            assert first.result(60).status_code == 200
    assert [image["batch_size"] for image in images] == [3, 3, 1, 1, 3]
    for (_, level), image, expected in zip(asked, images, alone, strict=True):
        (found,), (own,) = trusts(image), trusts(expected.json()["images"][0])
        if level is None:
            assert found is None
        else:
            assert_close(found, own)


def test_several_pictures_and_negatives_are_measured(running: RunningApp) -> None:
    body = asking(1, "quick", negatives={"prompts": ["a wall"]})
    one = running.explain(body).json()["images"][0]
    images = [body.pop("image"), asking(2, "quick")["image"]]
    answer = running.explain({**body, "images": images}).json()
    assert [len(trusts(image)) for image in answer["images"]] == [2, 2]
    for found, expected in zip(trusts(answer["images"][0]), trusts(one), strict=True):
        assert_close(found, expected)
    plain = trusts(running.explain(asking(1, "quick")).json()["images"][0])
    assert plain[0]["perturbation"] != trusts(one)[0]["perturbation"]


def test_other_protocols_with_an_output_tell_it(running: RunningApp) -> None:
    body, client, model = asking(1, "quick"), running.client, running.model.id
    expected = trusts(running.explain(body).json()["images"][0])
    (kserve,) = client.post(f"/v1/models/{model}:explain", json={"instances": [body]}).json()[
        "explanations"
    ]
    torchserve = client.post(
        f"/explanations/{model}",
        params={"prompts": PROMPTS, "output": json.dumps(body["output"])},
        content=encoded(picture(seed=1)),
    ).json()
    for image in (kserve, torchserve):
        for found, own in zip(trusts(image), expected, strict=True):
            assert_close(found, own)


def test_the_tensor_protocol_refuses_it(running: RunningApp) -> None:
    tensors = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [data]}
        for name, data in (("IMAGE", base64_of(encoded())), ("TEXT", "a cat"))
    ]
    answer = running.client.post(
        f"/v2/models/{running.model.id}/infer",
        json={"inputs": tensors, "parameters": {"trust": "free"}},
    )
    assert answer.status_code == 422
    assert "parameters.trust" in answer.text


def test_a_picture_as_the_answer_has_no_place_for_it(running: RunningApp) -> None:
    answer = running.explain(asking(1, "free", ["a cat"]), Accept="image/jpeg")
    detail = refused(answer, 406, "not-acceptable", "output.trust")
    assert "no place for the result of output.trust" in detail


@pytest.mark.parametrize("level", ["full", "", 1, True])
def test_another_level_is_refused_by_the_contract(running: RunningApp, level: Any) -> None:
    refused(running.explain(asking(1, level)), 422, "invalid-request", "output.trust")


def test_maps_of_heads_have_no_trust(running: RunningApp) -> None:
    body = asking(1, "free", ["a cat"], method="raw-attention", heads="each")
    detail = refused(running.explain(body), 422, "invalid-option", "output.trust")
    assert "leave one of them out" in detail


def test_more_work_than_the_queue_holds_is_refused_with_advice(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=30.0) as running:
        detail = refused(
            running.explain(asking(1, "curves")), 422, "limit-exceeded", "output.trust"
        )
        assert "the whole queue holds 30" in detail
        assert "trust 'quick' or 'free'" in detail
        assert running.explain(asking(1, "quick")).status_code == 200
        assert running.model.batcher.queue_cost == 0


def test_a_class_is_followed_by_its_probability(running_classifier: RunningApp) -> None:
    body = asking(1, "curves")
    del body["prompts"]
    body["targets"] = [{"type": "class", "index": 0}, {"type": "class", "index": 2}]
    (image,) = running_classifier.explain(body).json()["images"]
    for target in image["targets"]:
        found = target["trust"]
        assert found["perturbation"]["score"] == "probability"
        assert abs(found["perturbation"]["warmest"]) <= target["probability"]
        assert found["agreement"]["neutral"] is None
        assert found["agreement"]["neutral_margin"] is None
        assert np.isfinite(found["curves"]["saco"])


@pytest.fixture(scope="module")
def running_classifier(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.support.own_models import write_classifier

    folder = tmp_path_factory.mktemp("classifier") / "own"
    with RunningApp(write_classifier(folder, ["a", "b", "c"], 3)) as started:
        yield started
