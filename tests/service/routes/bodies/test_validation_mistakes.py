"""Common first mistakes are answered with the right way to ask."""

import errno
import json
import re
import socket
from typing import Any

import httpx
import pytest
from legrad_client import LegradClient

from legrad_engine import LegradError
from legrad_engine.models import ModelReference
from service.server.sockets import listen
from service.settings import unknown_variables
from service.settings.keys import read_keys
from tests.support.answers import refused
from tests.support.pictures import encoded, request_of
from tests.support.running_app import RunningApp


@pytest.mark.parametrize("path", ["/explane", "/v1/explain", "/health"])
def test_a_wrong_path_is_led_to_the_list_of_paths(running: RunningApp, path: str) -> None:
    problem = running.client.post(path).json()
    assert problem["error"] == "not-found"
    assert "/docs" in problem["detail"]


def test_a_wrong_method_is_told_the_right_one(running: RunningApp) -> None:
    assert "POST" in refused(running.client.get("/explain"), 405, "method-not-allowed", None)


@pytest.mark.parametrize(
    ("change", "field", "mention"),
    [
        ({"layers": 2}, "layers", "belongs in 'options'"),
        ({"overlay": False}, "overlay", "belongs in 'output'"),
        ({"options": {"layer": 2}}, "options.layer", "is it 'layers'?"),
        ({"wibble": 2}, "wibble", "There is no such field."),
        ({"x" * 50_000: 2}, "x" * 300 + "…" + "x" * 300, "There is no such field."),
        ({"prompts": "a cat"}, "prompts", "Write a list"),
    ],
)
def test_a_misplaced_or_misspelt_field_is_told_its_place_or_name(
    running: RunningApp, change: dict[str, Any], field: str, mention: str
) -> None:
    response = running.explain(request_of(**change))
    refused(response, 422, "invalid-request", field)
    assert mention in response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"output.max_side": 512}, "output.max_side"),
        ({"max_side": 512}, "max_side"),
        ({"maxside": 512}, "maxside"),
        ({"options": {"max_side": 512}}, "options.max_side"),
        ({"options": {"output.max_side": 512}}, "options.output.max_side"),
        ({"options": {"output": {"max_side": 512}}}, "options.output"),
        ({"options.layers": 2}, "options.layers"),
        ({"output": {"layers": 2}}, "output.layers"),
        ({"output": {"options.layers": 2}}, "output.options.layers"),
    ],
)
def test_whoever_follows_a_hint_is_not_sent_back(
    running: RunningApp, change: dict[str, Any], field: str
) -> None:
    response = running.explain(request_of(**change))
    refused(response, 422, "invalid-request", field)
    message = response.json()["errors"][0]["message"]
    if "at the top of the body" in message:
        followed = change["options"]
    else:
        value = "2" if "layers" in field else "512"
        written = re.search(r"write (\{.*\})\.$", message)
        assert written, message
        followed = json.loads(written[1].replace("...", value))
    assert running.explain(request_of(**followed)).status_code == 200


def form(running: RunningApp, **texts: str) -> httpx.Response:
    return running.client.post("/explain", files={"image": encoded()}, data=texts)


def test_a_list_in_a_form_is_not_taken_for_one_prompt(running: RunningApp) -> None:
    response = form(running, prompts='["a cat", "a dog"]')
    assert "a field for each prompt" in refused(response, 400, "malformed-body", "prompts")
    assert form(running, prompts="[a cat").status_code == 200


def test_the_name_of_a_file_is_not_a_picture(running: RunningApp) -> None:
    response = running.explain(request_of(image="pictures/cat.png"))
    assert "not its name" in refused(response, 422, "image-decode-failed", "image")


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"LEGRAD_PORT={port}: .*Choose another port") as caught:
            listen("127.0.0.1", port)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EADDRINUSE


def test_a_variable_that_is_no_setting_is_found_with_the_one_that_was_meant() -> None:
    variables = ["LEGRAD_LOADMODELS", "LEGRAD_WIBBLE", "LEGRAD_PORT", "legrad_host", "PATH"]
    assert unknown_variables(variables) == {
        "LEGRAD_LOADMODELS": "LEGRAD_LOAD_MODELS",
        "LEGRAD_WIBBLE": None,
    }


def test_an_address_without_its_scheme_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="http://localhost:8000"):
        LegradClient("localhost:8000")


@pytest.mark.parametrize("text", ["tuned.pt", "models/tuned.safetensors", "/models/tuned.bin"])
def test_a_checkpoint_alone_is_asked_for_its_architecture(text: str) -> None:
    with pytest.raises(LegradError, match="which architecture: write NAME@"):
        ModelReference.parse(text)


def test_a_rate_in_another_form_is_told_the_right_one() -> None:
    with pytest.raises(LegradError, match="rate: write N/second"):
        read_keys(
            f'[{{"name": "a", "sha256": "{"0" * 64}", "scopes": ["explain"], "rate": "10/s"}}]',
            "keys",
        )
