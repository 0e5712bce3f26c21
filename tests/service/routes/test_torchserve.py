"""TorchServe's explanations: a picture as the body, and errors in TorchServe's form."""

import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.answers import check_against_contract
from tests.support.pictures import bomb, encoded, opened, picture
from tests.support.protocols import RAW_MAPS, explained
from tests.support.running_app import RunningApp

QUERY: dict[str, Any] = {"prompts": "a cat"}


def send(
    running: RunningApp, query: dict[str, Any], path: str = "", method: str = "POST", **body: Any
) -> httpx.Response:
    url = f"/explanations/{running.model.id}{path}"
    return running.client.request(method, url, params=query, **(body or {"content": encoded()}))


def refused(response: httpx.Response, status: int, kind: str) -> str:
    assert response.status_code == status, response.text
    check_against_contract(response.json(), "TorchServeError")
    assert response.json()["code"] == status
    assert response.json()["type"] == kind
    message: str = response.json()["message"]
    return message


def test_maps_are_those_of_explain(running: RunningApp) -> None:
    image, prompts = encoded(picture(seed=8), "JPEG"), ["a cat", "猫 & co"]
    options = {"layers": "all", "size": 96}
    query = {
        "prompts": prompts,
        "options": json.dumps({**options, "cache": False}),
        "output": json.dumps(RAW_MAPS),
    }
    (expected,) = explained(running, [image], prompts, **options)
    for body in (
        {"content": image},
        {"content": image, "headers": {"Content-Type": "image/jpeg"}},
        {"content": image, "headers": {"Content-Type": "application/octet-stream"}},
        {"files": [("data", ("cat.jpg", image))]},
    ):
        answer = send(running, query, **body)
        assert answer.status_code == 200, answer.text
        check_against_contract(answer.json(), "ImageExplanation")
        assert answer.json()["targets"] == expected["targets"]


def test_overlays_have_the_chosen_format(running: RunningApp) -> None:
    for output, expected in (({}, "image/jpeg"), ({"format": "webp"}, "image/webp")):
        answer = send(running, {**QUERY, "output": json.dumps(output)})
        (target,) = answer.json()["targets"]
        assert target["overlay_type"] == expected
        assert Image.MIME[opened(target["overlay"]).format or ""] == expected


def test_parts_of_a_form_mean_what_the_query_does(running: RunningApp) -> None:
    form = [
        ("data", ("cat.png", encoded())),
        ("prompts", (None, "a dog")),
        ("options", (None, '{"layers": 1}')),
    ]
    by_form = send(running, QUERY, files=form).json()["targets"]
    by_query = send(running, {"prompts": ["a cat", "a dog"], "options": '{"layers": 1}'})
    assert [target["prompt"] for target in by_form] == ["a cat", "a dog"]
    assert by_form == by_query.json()["targets"]


def test_a_file_is_sent_as_curl_does(running: RunningApp) -> None:
    answers = [
        send(running, QUERY, path, method) for path in ("", "/1.0") for method in ("POST", "PUT")
    ]
    assert [answer.status_code for answer in answers] == [200] * 4


def test_ping_tells_whether_requests_are_answered(running: RunningApp, tiny_model: str) -> None:
    assert running.client.get("/ping").json() == {"status": "Healthy"}
    with RunningApp(f"{tiny_model[:-12]}.missing", wait=False) as app:
        assert refused(app.client.get("/ping"), 503, "not-ready")


@pytest.mark.parametrize(
    ("query", "body", "status", "kind"),
    [
        ({}, {}, 422, "invalid-request"),
        ({"prompts": ["a cat"] * 9}, {}, 422, "limit-exceeded"),
        ({**QUERY, "model": "x"}, {}, 422, "invalid-request"),
        ({**QUERY, "image": "x"}, {}, 422, "invalid-request"),
        ({**QUERY, "options": "{"}, {}, 400, "malformed-body"),
        ({**QUERY, "options": '{"layers": 9}'}, {}, 422, "invalid-option"),
        (QUERY, {"content": b""}, 422, "image-decode-failed"),
        (QUERY, {"content": b"no picture"}, 422, "image-decode-failed"),
        (QUERY, {"content": bomb()}, 413, "image-too-large"),
        (QUERY, {"content": b"x" * 2_000_001}, 413, "body-too-large"),
        (QUERY, {"json": {"data": "x"}}, 415, "unsupported-media-type"),
        (QUERY, {"content": b"x", "headers": {"Content-Encoding": "br"}}, 415,
         "unsupported-media-type"),
        (QUERY, {"files": [("other", ("cat.png", encoded()))]}, 400, "malformed-body"),
        (QUERY, {"files": [("data", (None, "text"))]}, 400, "malformed-body"),
        (QUERY, {"files": [("data", ("cat.png", encoded()))] * 2}, 422, "invalid-request"),
        (QUERY, {"files": [("prompts", (None, "a cat"))]}, 422, "invalid-request"),
        (QUERY, {"content": b"x", "headers": {"X-Request-Timeout-Ms": "0"}}, 422,
         "invalid-request"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_bad_requests_are_named(
    running: RunningApp, query: dict[str, Any], body: dict[str, Any], status: int, kind: str
) -> None:
    assert refused(send(running, query, **body), status, kind)
    assert send(running, QUERY).status_code == 200


def test_unknown_models_and_versions_are_named(running: RunningApp) -> None:
    refused(send(running, QUERY, "/2.0"), 404, "unknown-version")
    unknown = running.client.post("/explanations/nothing", params=QUERY, content=encoded())
    refused(unknown, 404, "unknown-model")
