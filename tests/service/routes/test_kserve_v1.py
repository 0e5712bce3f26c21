"""KServe's V1 protocol: the same explanations as `/explain`, and errors in KServe's form."""

from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from PIL import Image

from tests.support.answers import check_against_contract
from tests.support.api_keys import bearer, entry, listed
from tests.support.pictures import base64_of, bomb, data_url, encoded, opened, picture
from tests.support.protocols import RAW_MAPS, explained, map_of, refused_as_kserve_does
from tests.support.running_app import Held, RunningApp, in_one_batch
from tests.support.tiny_model import save_model


def instance(image: bytes | None = None, **changes: Any) -> dict[str, Any]:
    b64 = base64_of(encoded() if image is None else image)
    return {"image": {"b64": b64}, "prompts": ["a cat"], **changes}


def ask(running: RunningApp, body: Any, model: str | None = None, **headers: str) -> Response:
    path = f"/v1/models/{model or running.model.id}:explain"
    return running.client.post(path, json=body, headers=headers)


def explanations(running: RunningApp, *instances: dict[str, Any]) -> list[dict[str, Any]]:
    response = ask(running, {"instances": instances})
    assert response.status_code == 200, response.text
    check_against_contract(response.json(), "Explanations")
    found: list[dict[str, Any]] = response.json()["explanations"]
    return found


def test_maps_are_those_of_explain(running: RunningApp) -> None:
    pictures = [encoded(picture(seed=seed)) for seed in (1, 2)]
    prompts = ["a cat", "a dog"]
    options = {"layers": "all", "fit": "pad", "size": 96}
    asked = [
        instance(image, prompts=prompts, options={**options, "cache": False}, output=RAW_MAPS)
        for image in pictures
    ]
    ours = in_one_batch(running, 2, lambda: explanations(running, *asked))
    expected = in_one_batch(running, 2, lambda: explained(running, pictures, prompts, **options))
    assert [each["targets"] for each in ours] == [each["targets"] for each in expected]
    assert map_of(ours[0]["targets"][0]).shape == (6, 6)


def test_instances_that_ask_the_same_are_computed_together(running: RunningApp) -> None:
    pictures = [encoded(picture(seed=seed)) for seed in (3, 4, 5)]
    asked = [instance(each, options={"cache": False}) for each in pictures]
    together = in_one_batch(running, 3, lambda: explanations(running, *asked))
    assert [each["batch_size"] for each in together] == [3, 3, 3]


def test_each_instance_may_ask_something_else(running: RunningApp) -> None:
    pictures = [encoded(picture(40 + seed, 60, seed=seed)) for seed in (1, 2, 3)]
    questions: list[dict[str, Any]] = [
        {"prompts": ["a cat"]},
        {"prompts": ["a dog", "a pizza"], "options": {"layers": 1}},
        {"prompts": ["a cat"]},
    ]
    answers = explanations(
        running,
        *(instance(image, **question) for image, question in zip(pictures, questions, strict=True)),
    )
    assert [each["size"]["width"] for each in answers] == [41, 42, 43]
    for image, question, answer in zip(pictures, questions, answers, strict=True):
        alone = running.explain({"image": data_url(image), **question}).json()["images"][0]
        for together, single in zip(answer["targets"], alone["targets"], strict=True):
            assert together["prompt"] == single["prompt"]
            assert together["similarity"] == pytest.approx(single["similarity"], abs=1e-5)


def test_each_instance_may_have_its_own_format(running: RunningApp) -> None:
    outputs: list[dict[str, Any]] = [
        {"format": "png"}, {}, {"format": "webp", "heatmap": "jpeg"}, {"format": "png"},
    ]  # fmt: skip
    answers = explanations(running, *(instance(encoded(), output=output) for output in outputs))
    kinds = ["image/png", "image/jpeg", "image/webp", "image/png"]
    for answer, output, kind in zip(answers, outputs, kinds, strict=True):
        (target,) = answer["targets"]
        assert target["overlay_type"] == Image.MIME[opened(target["overlay"]).format or ""] == kind
        assert target["heatmap_type"] == f"image/{output.get('heatmap', 'png')}"


def test_every_different_question_takes_a_place(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_requests_in_progress=2) as app:
        different = [instance(prompts=[prompt]) for prompt in ("a cat", "a dog", "a pizza")]
        assert ask(app, {"instances": different[:2]}).status_code == 200
        refused = ask(app, {"instances": different})
        refused_as_kserve_does(refused, 429, "too-many-requests", None)
        assert refused.headers["retry-after"]
        assert ask(app, {"instances": [instance()] * 3}).status_code == 200
        assert app.metric("legrad_requests_in_progress") == 0


def test_models_are_listed_and_ready(running: RunningApp) -> None:
    model = running.model.id
    assert running.client.get("/v1/models").json() == {"models": [model]}
    assert running.client.get(f"/v1/models/{model}").json() == {"name": model, "ready": True}
    unknown = running.client.get("/v1/models/nothing")
    refused_as_kserve_does(unknown, 404, "unknown-model", "model")


def test_ids_with_dots_are_served_by_every_protocol(tmp_path: Path) -> None:
    reference = save_model(tmp_path, "tiny.v1")
    with RunningApp(reference) as app:
        model = app.model.id
        assert "." in model
        assert app.client.get(f"/v1/models/{model}").status_code == 200
        assert ask(app, {"instances": [instance()]}).status_code == 200
        assert app.client.get(f"/v2/models/{model}/ready").status_code == 200
        answer = app.client.post(
            f"/explanations/{model}", params={"prompts": "a cat"}, content=encoded()
        )
        assert answer.status_code == 200


def test_a_model_that_is_not_loaded_is_not_ready(tiny_model: str) -> None:
    with RunningApp(tiny_model, wait=False, load_models="on-demand") as app:
        (model,) = app.client.get("/v1/models").json()["models"]
        for path in (f"/v1/models/{model}", f"/v2/models/{model}/ready"):
            refused_as_kserve_does(app.client.get(path), 503, "not-ready", None)
        assert ask(app, {"instances": [instance()]}, model).status_code == 200
        assert app.client.get(f"/v1/models/{model}").status_code == 200


def test_keys_are_asked_for_in_each_protocols_form(tiny_model: str) -> None:
    keys = listed(entry("asker", "asker", "explain"))
    with RunningApp(tiny_model, api_keys=keys) as app:
        model = app.model.id
        for path in (f"/v1/models/{model}", "/v2", f"/v2/models/{model}"):
            refused_as_kserve_does(app.client.get(path), 401, "unauthorized", "Authorization")
            assert app.client.get(path, headers=bearer("asker")).status_code == 200
        refused = app.client.post(f"/explanations/{model}")
        assert refused.json()["type"] == "unauthorized"
        assert refused.headers["www-authenticate"]
        for path in ("/v2/health/live", "/v2/health/ready", "/ping"):
            assert app.client.get(path).status_code == 200


def test_a_deadline_and_a_full_server_are_errors_in_the_protocols_form(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_requests_in_progress=1) as app, Held(app) as held:
        waiting = app.explain_in_background()
        assert held.entered.wait(60)
        full = ask(app, {"instances": [instance()]})
        refused_as_kserve_does(full, 429, "too-many-requests", None)
        held.release()
        assert waiting.result().status_code == 200
    with RunningApp(tiny_model) as app, Held(app):
        late = ask(app, {"instances": [instance()]}, **{"X-Request-Timeout-Ms": "2000"})
        refused_as_kserve_does(late, 504, "deadline-exceeded", None)
        assert (
            app.metric('legrad_requests_total{route="/v1/models/{model_id}:explain",status="504"}')
            == 1
        )


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ([], 422, "invalid-request", "body"),
        ({}, 422, "invalid-request", "instances"),
        ({"instances": []}, 422, "invalid-request", "instances"),
        ({"instances": "x"}, 422, "invalid-request", "instances"),
        ({"instances": [1]}, 422, "invalid-request", "instances.0"),
        ({"instances": [instance(), {}]}, 422, "invalid-request", "instances.1.image"),
        (
            {"instances": [{"image": data_url(encoded())}]},
            422, "invalid-request", "instances.0.prompts",
        ),
        (
            {"instances": [instance(options={"layers": "x"})]},
            422, "invalid-request", "instances.0.options.layers",
        ),
        (
            {"instances": [instance(), {**instance(), "image": {"b64": "%"}}]},
            422, "image-decode-failed", "instances.1.image",
        ),
        (
            {"instances": [instance(b"no picture"), instance()]},
            422, "image-decode-failed", "instances.0.image",
        ),
        (
            {"instances": [instance(), instance(bomb(), prompts=["a dog"])]},
            413, "image-too-large", "instances.1.image",
        ),
        ({"instances": [instance()] * 5}, 422, "limit-exceeded", "images"),
        ({"instances": [instance(prompts=["a cat"] * 9)]}, 422, "limit-exceeded", "prompts"),
        (
            {"instances": [instance(targets=[{"type": "embedding", "embedding": {"b64": "%"}}])]},
            422, "invalid-target", "instances.0.targets.0.embedding",
        ),
        ({"instances": [instance()], "model": "x"}, 422, "invalid-request", "model"),
        ({"instances": [instance(b"x" * 2_000_000)]}, 413, "body-too-large", "body"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_bad_requests_are_named(
    running: RunningApp, body: Any, status: int, code: str, field: str
) -> None:
    assert refused_as_kserve_does(ask(running, body), status, code, field)
    assert ask(running, {"instances": [instance()]}).status_code == 200


def test_bad_bodies_and_unknown_models_are_named(running: RunningApp) -> None:
    path = f"/v1/models/{running.model.id}:explain"
    broken = running.client.post(path, content=b"{")
    refused_as_kserve_does(broken, 400, "malformed-body", "body")
    unknown = ask(running, {"instances": [instance()]}, "nothing")
    refused_as_kserve_does(unknown, 404, "unknown-model", "model")
