"""A calibrated presence belongs to weights, and to the input that a model usually gets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.answers import check_against_contract
from tests.support.calibrations import write_calibration, write_calibration_of
from tests.support.hub_files import hub_server
from tests.support.pictures import base64_of, encoded, picture, request_of
from tests.support.protocols import refused_as_kserve_does
from tests.support.running_app import RunningApp
from tests.support.running_server import LEGRAD, Server
from tests.support.tiny_model import TINY, save_model

MODEL = "tiny-tiny"
SIZE = TINY["vision_cfg"]["image_size"]
WIDE = base64_of(encoded(picture(96, 64)))


@pytest.fixture(scope="module")
def calibrated(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    file = tmp_path_factory.mktemp("presence") / "presence.json"
    write_calibration(file, tiny_model)
    with RunningApp(tiny_model, presence=f"{MODEL}={file}") as running:
        yield running


@pytest.mark.parametrize(
    ("options", "is_told"),
    [
        ({}, True),
        ({"size": SIZE}, True),
        ({"templates": "openai"}, True),
        ({"size": 2 * SIZE}, False),
        ({"fit": "pad"}, False),
        ({"fit": "native"}, False),
    ],
    ids=str,
)
def test_presence_is_told_for_the_usual_input_alone(
    calibrated: RunningApp, options: dict[str, Any], is_told: bool
) -> None:
    answer = calibrated.explain(request_of(image=WIDE, prompts=["a"], options=options)).json()
    check_against_contract(answer, "ExplainResponse")
    presence = answer["images"][0]["targets"][0]["presence"]
    assert (presence is not None) == is_told


def test_a_square_picture_has_its_usual_input_whatever_the_fit(calibrated: RunningApp) -> None:
    square = base64_of(encoded(picture(64, 64)))
    told = {
        calibrated.explain(
            request_of(image=square, prompts=["a"], options={"fit": fit, "cache": False})
        ).json()["images"][0]["targets"][0]["presence"]
        for fit in ("squash", "pad")
    }
    assert len(told) == 1
    assert None not in told


@pytest.mark.parametrize("parameters", [{"size": 2 * SIZE}, {"fit": "pad"}], ids=str)
def test_the_open_inference_protocol_refuses_a_presence_that_there_is_not(
    calibrated: RunningApp, parameters: dict[str, Any]
) -> None:
    inputs = [
        {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [WIDE]},
        {"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a"]},
    ]
    body = {"inputs": inputs, "outputs": [{"name": "PRESENCE"}], "parameters": parameters}
    refused = calibrated.client.post(f"/v2/models/{MODEL}/infer", json=body)
    refused_as_kserve_does(refused, 422, "invalid-request", "outputs")
    rest = {**body, "outputs": [{"name": "SIMILARITY"}]}
    assert calibrated.client.post(f"/v2/models/{MODEL}/infer", json=rest).status_code == 200


@pytest.mark.slow
def test_a_model_of_the_hub_is_loaded_before_its_calibration_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path, "tiny")
    files = {
        "org/own/open_clip_config.json": json.dumps(
            {"model_cfg": TINY, "preprocess_cfg": {}}
        ).encode(),
        "org/own/open_clip_model.safetensors": (tmp_path / "tiny.safetensors").read_bytes(),
    }
    fitted = {"these": tmp_path / "these.json", "others": tmp_path / "others.json"}
    write_calibration_of(fitted["these"], f"org/own@{'a' * 40}")
    write_calibration_of(fitted["others"], f"org/own@{'b' * 40}")
    with hub_server(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        # A process of its own: the variables of the hub are read when Python starts.
        with Server(
            ",".join(f"{name}=hf-hub:org/own" for name in fitted),
            program=(str(LEGRAD),),
            presence=",".join(f"{name}={file}" for name, file in fitted.items()),
        ) as server:
            server.poll("/models", lambda answer: _states(answer.json()) <= {"ready", "failed"})
            these, others = server.client.get("/models").json()["models"]
            assert these["state"] == "ready", these["error"]
            asked = request_of(prompts=["a"], model="these")
            [target] = server.explain(asked).json()["images"][0]["targets"]
            assert target["presence"] is not None
            assert others["state"] == "failed"
            assert "fitted for the weights" in others["error"]


def _states(models: dict[str, Any]) -> set[str]:
    return {each["state"] for each in models["models"]}
