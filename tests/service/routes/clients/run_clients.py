"""Run KServe's and Triton's own clients against a server; needs an environment with both.

Arguments: the server's address, a model, a folder with `pictures.npz` and `prompts.json`. The
results go into the folder: arrays into `arrays.npz`, all else into `facts.json`.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.rest import v2_datamodels
from tritonclient.utils import InferenceServerException

OUTPUTS = ("HEATMAP", "SIMILARITY", "PROBABILITY")
PARAMETERS = {"layers": "all", "cache": False}


def triton_inputs(pictures: list[bytes], prompts: list[str], binary: bool) -> list[Any]:
    encoded = pictures if binary else [base64.b64encode(each).decode() for each in pictures]
    tensors = []
    for name, elements in (("IMAGE", encoded), ("TEXT", prompts)):
        values = np.array(elements, np.object_)
        tensor = triton.InferInput(name, list(values.shape), "BYTES")
        tensors.append(tensor.set_data_from_numpy(values, binary_data=binary))
    return tensors


def run_triton(
    address: str, model: str, pictures: list[bytes], prompts: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = {}
    # Not closed: to wait for a pool that is empty already is an error of gevent at times.
    client = triton.InferenceServerClient(address.removeprefix("http://"))
    facts: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready(model),
        "version ready": client.is_model_ready(model, "1"),
        "unknown ready": client.is_model_ready("nothing"),
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(model),
    }
    for binary_in in (True, False):
        inputs = triton_inputs(pictures, prompts, binary_in)
        as_bytes = [triton.InferRequestedOutput(name) for name in OUTPUTS]
        for asked, outputs, coding in (
            ("all", None, None),
            ("bytes", as_bytes, None),
            ("json", [triton.InferRequestedOutput(name, False) for name in OUTPUTS], None),
            ("gzip", as_bytes, "gzip"),
            ("deflate", as_bytes, "deflate"),
        ):
            result = client.infer(
                model, inputs, outputs=outputs, request_id="7", parameters=PARAMETERS,
                request_compression_algorithm=coding,
            )  # fmt: skip
            assert result.get_response()["id"] == "7"
            for name in OUTPUTS:
                arrays[f"triton {binary_in} {asked} {name}"] = result.as_numpy(name)
    inputs = triton_inputs(pictures, prompts, binary=True)
    futures = [client.async_infer(model, inputs, model_version="1") for _ in range(3)]
    facts["async"] = [each.get_result().as_numpy("HEATMAP").shape for each in futures]
    for name, arguments in (
        ("unknown model", {"model_name": "nothing", "inputs": inputs}),
        ("missing tensor", {"model_name": model, "inputs": inputs[:1]}),
    ):
        try:
            client.infer(**arguments)
        except InferenceServerException as error:
            facts[name] = [error.status(), error.message()]
    return facts, arrays


async def run_kserve(
    address: str, model: str, pictures: list[bytes], prompts: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = {}
    first = InferenceRESTClient(RESTConfig(protocol="v1"))
    instances = [
        {
            "image": {"b64": base64.b64encode(picture).decode()},
            "prompts": prompts,
            "options": PARAMETERS,
            "output": {"heatmap": "npy", "overlay": False},
        }
        for picture in pictures
    ]
    facts: dict[str, Any] = {
        "v1 ready": await first.is_model_ready(address, model),
        "v1": await first.explain(address, model, {"instances": instances}),
    }
    second = InferenceRESTClient(RESTConfig(protocol="v2"))
    facts |= {
        "v2 live": await second.is_server_live(address),
        "v2 ready": await second.is_server_ready(address),
        "v2 model ready": await second.is_model_ready(address, model),
    }
    for binary in (True, False):
        encoded = pictures if binary else [base64.b64encode(each).decode() for each in pictures]
        tensors = []
        for name, elements in (("IMAGE", encoded), ("TEXT", prompts)):
            values = np.array(elements, np.object_)
            tensor = InferInput(name, list(values.shape), "BYTES")
            tensor.set_data_from_numpy(values, binary_data=binary)
            tensors.append(tensor)
        parameters = {**PARAMETERS, "binary_data_output": binary}
        request = InferRequest(model, tensors, request_id="7", parameters=parameters)
        response = await second.infer(address, request, model)
        assert response.id == "7"
        for output in response.outputs:
            arrays[f"kserve {binary} {output.name}"] = output.as_numpy()
    for name, call in (
        ("v1 unknown", first.is_model_ready(address, "nothing")),
        ("v1 error", first.explain(address, model, {"instances": []})),
        ("v2 error", second.infer(address, {"inputs": []}, model)),
    ):
        try:
            await call
        except httpx.HTTPStatusError as error:
            facts[name] = [error.response.status_code, str(error)]
    return facts, arrays


def check_published_schemas(
    address: str, model: str, pictures: list[bytes], prompts: list[str]
) -> None:
    """Validate every answer with the models that KServe's own server declares."""
    with httpx.Client(base_url=f"{address}/v2", timeout=60) as client:
        for path, expected in (
            ("", v2_datamodels.ServerMetadataResponse),
            ("/health/live", v2_datamodels.ServerLiveResponse),
            ("/health/ready", v2_datamodels.ServerReadyResponse),
            (f"/models/{model}", v2_datamodels.ModelMetadataResponse),
            (f"/models/{model}/ready", v2_datamodels.ModelReadyResponse),
        ):
            expected.model_validate(client.get(path).raise_for_status().json())
        body = {
            "inputs": [
                {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data}
                for name, data in (
                    ("IMAGE", [base64.b64encode(each).decode() for each in pictures]),
                    ("TEXT", prompts),
                )
            ]
        }
        v2_datamodels.InferenceRequest.model_validate(body)
        answer = client.post(f"/models/{model}/infer", json=body).raise_for_status().json()
        v2_datamodels.InferenceResponse.model_validate(answer)


def main(address: str, model: str, folder: Path) -> None:
    with np.load(folder / "pictures.npz") as saved:
        pictures = [saved[name].tobytes() for name in saved.files]
    prompts = json.loads((folder / "prompts.json").read_text())
    triton_facts, triton_arrays = run_triton(address, model, pictures, prompts)
    kserve_facts, kserve_arrays = asyncio.run(run_kserve(address, model, pictures, prompts))
    check_published_schemas(address, model, pictures, prompts)
    np.savez(folder / "arrays.npz", **triton_arrays, **kserve_arrays)
    facts = {"triton": triton_facts, "kserve": kserve_facts}
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
