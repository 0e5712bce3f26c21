"""The Open Inference Protocol: tensors in and out, in JSON and as bytes, and its errors."""

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.answers import check_against_contract
from tests.support.pictures import base64_of, bomb, data_url, encoded, picture
from tests.support.protocols import explained, map_of, refused_as_kserve_does
from tests.support.running_app import RunningApp, in_one_batch

LENGTH = "Inference-Header-Content-Length"


def tensor(name: str, *elements: str, **changes: Any) -> dict[str, Any]:
    shape = [len(elements)]
    return {"name": name, "shape": shape, "datatype": "BYTES", "data": [*elements], **changes}


def as_bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


IMAGE = tensor("IMAGE", base64_of(encoded()))
TEXT = tensor("TEXT", "a cat")


def body_of(**changes: Any) -> dict[str, Any]:
    return {"inputs": [IMAGE, TEXT], **changes}


def infer(
    running: RunningApp, body: dict[str, Any], path: str = "", appended: bytes | None = None
) -> httpx.Response:
    url = f"/v2/models/{running.model.id}{path}/infer"
    encoded_body = json.dumps(body).encode()
    if appended is None:
        return running.client.post(url, content=encoded_body)
    headers = {LENGTH: str(len(encoded_body))}
    return running.client.post(url, content=encoded_body + appended, headers=headers)


def outputs(response: httpx.Response) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of an answer, from JSON and from binary data."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    answer, appended = json.loads(response.content[:length]), response.content[length:]
    check_against_contract(answer, "InferenceResponse")
    found = {}
    for each in answer["outputs"]:
        assert ("data" in each) != ("parameters" in each)
        if "data" in each:
            values = np.array(each["data"], np.float32)
        else:
            size = each["parameters"]["binary_data_size"]
            values, appended = np.frombuffer(appended[:size], "<f4"), appended[size:]
        found[each["name"]] = values.reshape(each["shape"])
    assert appended == b""
    return found


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_tensors_are_the_numbers_of_explain(
    running: RunningApp, binary_in: bool, binary_out: bool
) -> None:
    pictures = [encoded(picture(seed=seed), "JPEG") for seed in (1, 2)]
    prompts = ["a cat", "猫", "a pizza"]
    parameters: dict[str, Any] = {"layers": "0,-1", "fit": "pad", "size": 96, "score": "cls"}
    body: dict[str, Any] = {
        "id": "42",
        "parameters": {**parameters, "cache": False, "binary_data_output": binary_out},
    }
    appended = None
    if binary_in:
        binary = [as_bytes(*pictures), as_bytes(*(prompt.encode() for prompt in prompts))]
        appended = b"".join(binary)
        body["inputs"] = [
            {
                "name": name,
                "shape": [count],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(data)},
            }
            for name, count, data in zip(("IMAGE", "TEXT"), (2, 3), binary, strict=True)
        ]
    else:
        body["inputs"] = [
            tensor("TEXT", *prompts),
            tensor("IMAGE", base64_of(pictures[0]), data_url(pictures[1])),
        ]
    response = in_one_batch(running, 2, lambda: infer(running, body, appended=appended))
    found = outputs(response)
    assert (LENGTH in response.headers) == binary_out
    assert response.headers["content-type"] == (
        "application/octet-stream" if binary_out else "application/json"
    )
    options = {**parameters, "layers": [0, -1]}
    expected = in_one_batch(running, 2, lambda: explained(running, pictures, prompts, **options))
    targets = [image["targets"] for image in expected]
    maps = [[map_of(target) for target in each] for each in targets]
    assert list(found) == ["HEATMAP", "SIMILARITY", "PROBABILITY"]
    assert found["HEATMAP"].shape == (2, 3, 6, 6)
    assert np.array_equal(found["HEATMAP"], np.array(maps))
    for name in ("similarity", "probability"):
        values = np.array([[each[name] for each in row] for row in targets], np.float32)
        assert np.array_equal(found[name.upper()], values)


def test_an_answer_says_whose_it_is(running: RunningApp) -> None:
    answer = infer(running, body_of(id="an id")).json()
    assert (answer["model_name"], answer["model_version"]) == (running.model.id, "1")
    assert answer["id"] == "an id"
    unnamed = infer(running, body_of(), "/versions/1")
    assert unnamed.json()["id"] == unnamed.headers["x-request-id"]


def test_only_wanted_outputs_come_each_as_asked(running: RunningApp) -> None:
    wanted = [
        {"name": "SIMILARITY", "parameters": {"binary_data": False}},
        {"name": "HEATMAP", "parameters": {"binary_data": True}},
    ]
    response = infer(running, body_of(outputs=wanted, parameters={"binary_data_output": True}))
    assert list(outputs(response)) == ["SIMILARITY", "HEATMAP"]
    length = int(response.headers[LENGTH])
    similarity, heatmap = json.loads(response.content[:length])["outputs"]
    assert "data" in similarity
    assert heatmap["parameters"] == {"binary_data_size": 4 * 4 * 4}


def test_grids_that_differ_do_not_fit_one_tensor(running: RunningApp) -> None:
    wide, high = (base64_of(encoded(picture(*size))) for size in ((120, 60), (60, 120)))
    body = body_of(
        inputs=[tensor("IMAGE", wide, high), TEXT], parameters={"fit": "native", "size": 128}
    )
    message = refused_as_kserve_does(infer(running, body), 422, "invalid-option", "parameters.fit")
    assert "one by one" in message
    numbers = outputs(infer(running, {**body, "outputs": [{"name": "SIMILARITY"}]}))
    assert numbers["SIMILARITY"].shape == (2, 1)
    alone = outputs(infer(running, {**body, "inputs": [tensor("IMAGE", wide), TEXT]}))
    rows, columns = alone["HEATMAP"].shape[2:]
    assert rows < columns


def test_server_and_models_are_described(running: RunningApp) -> None:
    model = running.model.id
    get = running.client.get
    server = get("/v2").json()
    check_against_contract(server, "ServerMetadata")
    assert "binary_tensor_data" in server["extensions"]
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    for path in (f"/v2/models/{model}", f"/v2/models/{model}/versions/1"):
        described = get(path).json()
        check_against_contract(described, "ModelMetadata")
        names = [each["name"] for each in described["inputs"] + described["outputs"]]
        assert names == ["IMAGE", "TEXT", "HEATMAP", "SIMILARITY", "PROBABILITY"]
        assert get(f"{path}/ready").json() == {"name": model, "ready": True}


def test_unknown_models_and_versions_are_named(running: RunningApp) -> None:
    model = running.model.id
    for path in ("/v2/models/nothing", "/v2/models/nothing/ready"):
        response = running.client.get(path)
        refused_as_kserve_does(response, 404, "unknown-model", "model")
    response = running.client.post("/v2/models/nothing/infer", json=body_of())
    refused_as_kserve_does(response, 404, "unknown-model", "model")
    for path in (f"/v2/models/{model}/versions/2", f"/v2/models/{model}/versions/2/ready"):
        response = running.client.get(path)
        refused_as_kserve_does(response, 404, "unknown-version", "version")
    refused_as_kserve_does(
        infer(running, body_of(), "/versions/2"), 404, "unknown-version", "version"
    )


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"inputs": []}, 422, "invalid-request", "inputs"),
        ({"inputs": [IMAGE]}, 422, "invalid-request", "inputs"),
        ({"inputs": [TEXT]}, 422, "invalid-request", "inputs"),
        ({"inputs": None}, 422, "invalid-request", "inputs"),
        ({"inputs": [IMAGE, TEXT, TEXT]}, 422, "invalid-request", "inputs.2.name"),
        ({"inputs": [IMAGE, tensor("text", "x")]}, 422, "invalid-request", "inputs.1.name"),
        (
            {"inputs": [IMAGE, tensor("TEXT", "x", datatype="FP32")]},
            422, "invalid-request", "inputs.1.datatype",
        ),
        (
            {"inputs": [IMAGE, {"name": "TEXT", "shape": [1], "datatype": "BYTES"}]},
            422, "invalid-request", "inputs.1.data",
        ),
        (
            {"inputs": [IMAGE, tensor("TEXT", "x", data=[1.5])]},
            422, "invalid-request", "inputs.1.data.0",
        ),
        *(
            (
                {"inputs": [IMAGE, tensor("TEXT", "x", shape=shape)]},
                422, "invalid-request", "inputs.1.shape",
            )
            for shape in ([], [1, 1], [0], [-1])
        ),
        (
            {"inputs": [IMAGE, tensor("TEXT", "x", shape=[2])]},
            422, "invalid-request", "inputs.1.data",
        ),
        (
            {"inputs": [IMAGE, tensor("TEXT", "x", shape=[10**30])]},
            422, "limit-exceeded", "body",
        ),
        (
            {"inputs": [IMAGE, tensor("TEXT", "x", parameters={"binary_data_size": 5})]},
            422, "invalid-request", "inputs.1.data",
        ),
        (
            {"inputs": [tensor("IMAGE", "%%%"), TEXT]},
            422, "image-decode-failed", "inputs.0.data.0",
        ),
        (
            {"inputs": [tensor("IMAGE", IMAGE["data"][0], base64_of(b"text")), TEXT]},
            422, "image-decode-failed", "inputs.0.data.1",
        ),
        (
            {"inputs": [tensor("IMAGE", base64_of(bomb())), TEXT]},
            413, "image-too-large", "inputs.0.data.0",
        ),
        ({"inputs": [tensor("IMAGE", *IMAGE["data"] * 5), TEXT]}, 422, "limit-exceeded", "images"),
        ({"inputs": [IMAGE, tensor("TEXT", *["x"] * 9)]}, 422, "limit-exceeded", "prompts"),
        ({"inputs": [tensor("IMAGE", "x" * 2_000_000), TEXT]}, 413, "body-too-large", "body"),
        ({"outputs": [{"name": "OTHER"}]}, 422, "invalid-request", "outputs.0.name"),
        ({"parameters": {"timeout": 3}}, 422, "invalid-request", "parameters.timeout"),
        ({"parameters": {"layers": "1,x"}}, 422, "invalid-request", "parameters.layers"),
        ({"parameters": {"layers": " 1 "}}, 422, "invalid-request", "parameters.layers"),
        ({"parameters": {"layers": ","}}, 422, "invalid-request", "parameters.layers"),
        ({"parameters": {"layers": 99}}, 422, "invalid-option", "options.layers"),
        ({"parameters": {"size": 1024}}, 422, "limit-exceeded", "options.size"),
        ({"parameters": {"fit": 3}}, 422, "invalid-request", "parameters.fit"),
        ({"parameters": [1]}, 422, "invalid-request", "parameters"),
        ({"other": 1}, 422, "invalid-request", "other"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_bad_requests_are_named(
    running: RunningApp, changes: dict[str, Any], status: int, code: str, field: str
) -> None:
    assert refused_as_kserve_does(infer(running, body_of(**changes)), status, code, field)
    assert infer(running, body_of()).status_code == 200


def binary_text(size: Any, count: int = 1) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    text = {"name": "TEXT", "shape": [count], "datatype": "BYTES", "parameters": parameters}
    return {"inputs": [IMAGE, text]}


GOOD = as_bytes(b"a cat")


@pytest.mark.parametrize(
    ("body", "appended", "status", "code", "field"),
    [
        (binary_text(9), GOOD[:-1], 400, "malformed-body", "inputs.1"),
        (binary_text(9), GOOD + b"x", 400, "malformed-body", "body"),
        (binary_text(10**15), GOOD, 400, "malformed-body", "inputs.1"),
        (binary_text(8), GOOD[:-1], 400, "malformed-body", "inputs.1"),
        (binary_text(3), GOOD[:3], 400, "malformed-body", "inputs.1"),
        (binary_text(0), b"", 400, "malformed-body", "inputs.1"),
        (binary_text(9, count=2), GOOD, 400, "malformed-body", "inputs.1"),
        (binary_text(18), GOOD * 2, 400, "malformed-body", "inputs.1"),
        (binary_text(9, count=100_001), GOOD, 422, "limit-exceeded", "body"),
        (binary_text(9), b"\xff\xff\xff\xffa cat", 400, "malformed-body", "inputs.1"),
        (binary_text(5), as_bytes(b"\xff"), 422, "invalid-request", "inputs.1.data.0"),
        (binary_text(-1), b"", 422, "invalid-request", "inputs.1.parameters"),
        (binary_text("9"), GOOD, 422, "invalid-request", "inputs.1.parameters"),
        (binary_text(True), GOOD, 422, "invalid-request", "inputs.1.parameters"),
        (binary_text(400, count=100), as_bytes(*[b""] * 100), 422, "limit-exceeded", "prompts"),
        (body_of(), GOOD, 400, "malformed-body", "body"),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_binary_data_that_does_not_match_the_json_is_refused(
    running: RunningApp,
    body: dict[str, Any],
    appended: bytes,
    status: int,
    code: str,
    field: str,
) -> None:
    response = infer(running, body, appended=appended)
    assert refused_as_kserve_does(response, status, code, field)
    assert outputs(infer(running, binary_text(9), appended=GOOD))


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "9999999", "9" * 5000, "٣"])
def test_an_invalid_length_is_refused(running: RunningApp, length: str) -> None:
    response = running.client.post(
        f"/v2/models/{running.model.id}/infer",
        content=json.dumps(body_of()),
        headers=[(LENGTH.encode(), length.encode())],
    )
    refused_as_kserve_does(response, 400, "malformed-body", LENGTH)


def test_a_length_inside_the_json_is_refused(running: RunningApp) -> None:
    response = running.client.post(
        f"/v2/models/{running.model.id}/infer",
        content=json.dumps(body_of()),
        headers={LENGTH: "20"},
    )
    refused_as_kserve_does(response, 400, "malformed-body", "body")


def test_an_unknown_content_coding_is_refused(running: RunningApp) -> None:
    response = running.client.post(
        f"/v2/models/{running.model.id}/infer",
        content=b"x",
        headers={"Content-Encoding": "zstd"},
    )
    refused_as_kserve_does(response, 415, "unsupported-media-type", "Content-Encoding")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_name": "nope"}, "model"),
        ({"outputs": [{"name": "HEATMAP"}, {"name": "HEATMAP"}]}, "outputs.1.name"),
        ({"outputs": [{"name": "HEATMAP", "parameters": {"binary_data": "yes"}}]},
         "outputs.0.parameters.binary_data"),
        ({"outputs": [{"name": "HEATMAP", "parameters": {"classification": 3}}]},
         "outputs.0.parameters.classification"),
        ({"outputs": [{"name": "HEATMAP", "parameters": {"shared_memory_region": "a"}}]},
         "outputs.0.parameters.shared_memory_region"),
        ({"parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({"inputs": [IMAGE, {**TEXT, "parameters": {"shared_memory_region": "a"}}]},
         "inputs.1.parameters.shared_memory_region"),
    ],
    ids=str,
)  # fmt: skip
def test_what_would_be_ignored_is_refused(
    running: RunningApp, changes: dict[str, Any], field: str
) -> None:
    response = infer(running, body_of(**changes))
    assert response.json()["field"] == field, response.text
    assert response.status_code in (404, 422)


def test_the_body_may_name_the_model_of_the_path(running: RunningApp) -> None:
    assert infer(running, body_of(model_name=running.model.id)).status_code == 200
