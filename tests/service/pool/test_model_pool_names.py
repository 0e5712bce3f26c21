"""Requests name a model by its id or as the settings write it, in bodies and in paths."""

from collections.abc import Iterator

import pytest

from service.batching import RestartBackoff
from service.pool import lifecycle
from tests.support.model_pools import GatedLoads, ask, problem
from tests.support.pictures import base64_of, encoded, request_of
from tests.support.running_app import RunningApp

TAGGED = "ViT-B-16/laion2b_s34b_b88k"
ENCODED = "ViT-B-16%2Flaion2b_s34b_b88k"
TAGGED_ID = "vit-b-16-laion2b_s34b_b88k"


@pytest.fixture(scope="module")
def named(tiny_model: str) -> Iterator[RunningApp]:
    """A model with a name of its own, and one whose weights are on a hub and not loaded."""
    with RunningApp(f"Shop={tiny_model},{TAGGED}", load_models="on-demand") as started:
        yield started


def test_a_model_is_served_under_the_name_that_the_operator_gives_it(
    named: RunningApp, tiny_model: str
) -> None:
    listed = named.client.get("/models").json()["models"]
    assert [model["id"] for model in listed] == ["Shop", TAGGED_ID]
    assert named.client.get("/v1/models").json() == {"models": ["Shop", TAGGED_ID]}
    written = "tiny.json@tiny.safetensors"
    for name in ("Shop", written, None):
        answer = ask(named, name)
        assert (answer.status_code, answer.json()["model"]) == (200, "Shop"), answer.text
    body = {"instances": [request_of()]}
    assert named.client.post("/v1/models/Shop:explain", json=body).status_code == 200
    for path in ("Shop", written):
        assert named.client.get(f"/v2/models/{path}").json()["name"] == "Shop"
    address = "/explanations/Shop?prompts=a"
    assert named.client.post(address, content=encoded()).status_code == 200
    assert named.metric('legrad_requests_total{route="/explanations/{model_id}",status="200"}') == 1


@pytest.mark.parametrize("name", ["shop", "tiny-tiny", "/tiny", "Shop/"])
def test_other_names_are_unknown(named: RunningApp, name: str) -> None:
    answer = ask(named, name)
    assert problem(answer) == (404, "unknown-model")
    assert f"Shop, {TAGGED_ID}" in answer.json()["detail"]


def test_folders_of_the_server_cannot_be_guessed(named: RunningApp, tiny_model: str) -> None:
    assert problem(ask(named, tiny_model)) == (404, "unknown-model")


@pytest.mark.parametrize("encoding", [ENCODED, ENCODED.replace("%2F", "%2f"), TAGGED_ID])
def test_a_slash_in_a_name_is_encoded_in_paths(named: RunningApp, encoding: str) -> None:
    assert named.client.get(f"/models/{encoding}").json()["id"] == TAGGED_ID
    assert named.client.get(f"/v2/models/{encoding}/versions/1").json()["name"] == TAGGED_ID
    assert problem(named.client.get(f"/models/{encoding}/ready")) == (503, "not-ready")
    assert named.client.head(f"/models/{encoding}").status_code == 200
    assert named.client.patch(f"/models/{encoding}").headers["allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize("path", ["/models/{}", "/v1/models/{}:explain", "/explanations/{}"])
def test_a_plain_slash_in_a_path_is_told_its_encoding(named: RunningApp, path: str) -> None:
    answer = named.client.post(path.format(f"{TAGGED}/more"))
    assert problem(answer) == (404, "not-found")
    assert "%2F" in answer.json()["detail"]


def test_requests_reach_a_model_by_its_written_name(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A retry would be one more load.
    monkeypatch.setattr(lifecycle, "_RELOAD_BACKOFF", RestartBackoff(3600.0, 3600.0))
    with (
        GatedLoads(monkeypatch, failures=99) as loads,
        RunningApp(f"Shop={tiny_model},{TAGGED}", load_models="on-demand") as running,
    ):
        loads.release()
        assert problem(ask(running, TAGGED)) == (503, "not-ready")
        answer = running.client.post(
            f"/v1/models/{ENCODED}:explain", json={"instances": [request_of()]}
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
        assert loads.count == 1


def test_another_model_in_the_body_than_in_the_path_is_refused(named: RunningApp) -> None:
    tensors = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [data]}
        for name, data in (("IMAGE", base64_of(encoded())), ("TEXT", "a cat"))
    ]
    body = {"model_name": TAGGED, "inputs": tensors}
    answer = named.client.post("/v2/models/Shop/infer", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "model_name")
    answer = named.client.post("/v2/models/Shop/infer", json=body | {"model_name": "Shop"})
    assert answer.status_code == 200


def test_a_spelling_of_two_models_names_neither(tiny_model: str) -> None:
    with RunningApp(f"one={tiny_model},two={tiny_model}", load_models="on-demand") as running:
        assert problem(ask(running, "tiny.json@tiny.safetensors")) == (404, "unknown-model")
        assert ask(running, "two").json()["model"] == "two"
