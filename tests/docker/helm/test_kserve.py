"""The server, started as a rendered ServingRuntime and InferenceService have KServe start it."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.charts import only, rendered, variables
from tests.support.own_models import own_weights, write_own_folder
from tests.support.pictures import data_url, encoded, picture
from tests.support.running_server import Server
from tests.support.tiny_model import save_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_VALUES: dict[str, Any] = {
    "kserve": {
        "enabled": True,
        "services": [
            {"name": "shop", "storageUri": "pvc://checkpoints/shop"},
            {
                "name": "shoes",
                "storageUri": "s3://models/shoes",
                "model": "/mnt/models/tiny.json@/mnt/models/tiny.safetensors",
            },
        ],
    },
    "settings": {"LEGRAD_MAX_IMAGES": 3},
}


def started(name: str, models: Path) -> Server:
    """The server of one InferenceService, with its files in this folder."""
    objects = rendered(_VALUES)
    (container,) = only(objects, "ServingRuntime")["spec"]["containers"]
    model = only(objects, "InferenceService", name)["spec"]["predictor"]["model"]
    # KServe puts the runtime's container and the service's `model` together.
    environment = variables(container) | variables({"env": model.get("env", [])})
    settings: dict[str, Any] = {
        variable.removeprefix("LEGRAD_").lower(): value.replace("{{.Name}}", name).replace(
            "/mnt/models", str(models)
        )
        for variable, value in environment.items()
        if variable.startswith("LEGRAD_")
    }
    # A pod has all of its port and addresses to itself; a test has not.
    assert settings.pop("host") == "0.0.0.0"
    assert settings.pop("port") == str(container["ports"][0]["containerPort"])
    assert container["args"] == ["serve"]
    server = Server(settings.pop("models"), **settings)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        server.poll(container[probe]["httpGet"]["path"], lambda answer: answer.status_code == 200)
    return server


@pytest.fixture(scope="module", params=["shop", "shoes"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Server]]:
    folder = tmp_path_factory.mktemp("mnt")
    if request.param == "shop":
        models = write_own_folder(folder / "models", own_weights())
    else:
        models = folder
        save_model(models, "tiny")
    with started(request.param, models) as server:
        yield request.param, server


def test_v1_explains_and_v2_predicts_under_the_name_of_the_service(
    served: tuple[str, Server],
) -> None:
    name, server = served
    assert server.client.get("/v1/models").json() == {"models": [name]}
    assert server.client.get(f"/v2/models/{name}/ready").status_code == 200
    image, prompts = encoded(picture()), ["a cat", "a dog"]
    output = {"heatmap": "npy", "overlay": False, "regions_threshold": None}
    v1 = server.client.post(
        f"/v1/models/{name}:explain",
        json={"instances": [{"image": data_url(image), "prompts": prompts, "output": output}]},
    )
    assert v1.status_code == 200, v1.text
    explained = np.stack(
        [
            np.load(io.BytesIO(base64.b64decode(target["heatmap"])))
            for target in v1.json()["explanations"][0]["targets"]
        ]
    )
    v2 = server.client.post(
        f"/v2/models/{name}/infer",
        json={
            "inputs": [
                {
                    "name": "IMAGE",
                    "shape": [1],
                    "datatype": "BYTES",
                    "data": [base64.b64encode(image).decode()],
                },
                {"name": "TEXT", "shape": [2], "datatype": "BYTES", "data": prompts},
            ]
        },
    )
    assert v2.status_code == 200, v2.text
    outputs = {each["name"]: each for each in v2.json()["outputs"]}
    heatmap = outputs["HEATMAP"]
    predicted = np.array(heatmap["data"], np.float32).reshape(heatmap["shape"])[0]
    assert predicted.std() > 0
    np.testing.assert_allclose(predicted, explained, rtol=1e-5, atol=1e-6)


def test_settings_of_the_values_reach_the_server(served: tuple[str, Server]) -> None:
    name, server = served
    instance = {"image": data_url(encoded(picture())), "prompts": ["a cat"]}
    refused = server.client.post(f"/v1/models/{name}:explain", json={"instances": [instance] * 4})
    assert refused.status_code == 422
    assert refused.json()["code"] == "limit-exceeded"
