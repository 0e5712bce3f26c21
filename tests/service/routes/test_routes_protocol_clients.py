"""KServe's and Triton's own clients and curl work with this server unchanged."""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.answers import check_against_contract
from tests.support.paths import DOCS, ROOT
from tests.support.pictures import data_url, encoded, picture
from tests.support.protocol_clients import client_python
from tests.support.protocols import RAW_MAPS, map_of
from tests.support.running_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PICTURES = [encoded(picture(seed=seed), "JPEG") for seed in (1, 2)]
PROMPTS = ["a cat", "猫", "a pizza"]


@dataclass
class Received:
    """The results of the clients, and the maps of `/explain` for the same pictures."""

    triton: dict[str, Any]
    kserve: dict[str, Any]
    arrays: dict[str, NDArray[np.float32]]
    expected: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def received(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Received:
    folder = tmp_path_factory.mktemp("clients")
    np.savez(folder / "pictures.npz", *(np.frombuffer(each, np.uint8) for each in PICTURES))
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    script = Path(__file__).parent / "clients" / "run_clients.py"
    subprocess.run(
        [str(client_python()), str(script), server.url, model_of(server), str(folder)],
        check=True,
        timeout=600,
    )
    body = {
        "images": [data_url(each) for each in PICTURES],
        "prompts": PROMPTS,
        "options": {"layers": "all", "cache": False},
        "output": RAW_MAPS,
    }
    targets = [image["targets"] for image in server.explain(body).json()["images"]]
    facts = json.loads((folder / "facts.json").read_text())
    with np.load(folder / "arrays.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    expected = {
        "HEATMAP": np.array([[map_of(target) for target in each] for each in targets]),
        **{
            name.upper(): np.array([[target[name] for target in each] for each in targets])
            for name in ("similarity", "probability")
        },
    }
    return Received(facts["triton"], facts["kserve"], arrays, expected)


def model_of(server: Server) -> str:
    model: str = server.client.get("/models").json()["models"][0]["id"]
    return model


def test_every_client_receives_the_maps_of_explain(received: Received) -> None:
    # Two ways to send, times three to receive and two compressed, and KServe's two, with three
    # tensors each.
    assert len(received.arrays) == (2 * (3 + 2) + 2) * 3
    for name, array in received.arrays.items():
        expected = received.expected[name.split()[-1]].astype(np.float32)
        assert array.dtype == np.float32, name
        assert np.array_equal(array, expected), name
    explanations = received.kserve["v1"]["explanations"]
    maps = [[map_of(target) for target in each["targets"]] for each in explanations]
    assert np.array_equal(np.array(maps), received.expected["HEATMAP"])


def test_triton_s_client_finds_the_server_and_its_models(received: Received) -> None:
    facts = received.triton
    names = ("live", "ready", "model ready", "version ready", "unknown ready")
    assert [facts[name] for name in names] == [True, True, True, True, False]
    assert facts["server"]["extensions"] == ["binary_tensor_data"]
    assert [each["name"] for each in facts["model"]["inputs"]] == ["IMAGE", "TEXT"]
    assert facts["async"] == [[2, 3, 4, 4]] * 3


def test_kserve_s_client_finds_the_server_and_its_models(received: Received) -> None:
    names = ("v1 ready", "v2 live", "v2 ready", "v2 model ready")
    assert [received.kserve[name] for name in names] == [True] * 4


def test_clients_show_the_error(received: Received) -> None:
    errors = [
        received.triton["unknown model"],
        received.triton["missing tensor"],
        received.kserve["v1 unknown"],
        received.kserve["v1 error"],
        received.kserve["v2 error"],
    ]
    assert [int(status) for status, _ in errors] == [404, 422, 404, 422, 422]
    mentions = (
        "not served here", "TEXT is missing", "not served here", "instances", "IMAGE",
    )  # fmt: skip
    for (_, message), mention in zip(errors, mentions, strict=True):
        assert mention in message


def test_the_documented_commands_work(server: Server, tmp_path: Path) -> None:
    text = (DOCS / "protocols.md").read_text()
    commands = re.findall(r"^\$ (.*?)(?=^\$ |^```)", text, re.MULTILINE | re.DOTALL)
    assert len(commands) >= 5
    for command in commands:
        # This server has another model than the documentation's example.
        local = command.replace("localhost:8000", server.url.removeprefix("http://"))
        local = local.replace("starter", model_of(server))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", local],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, (local, done.stderr)
        answer = json.loads(done.stdout)
        name = next(
            name
            for path, name in (
                (":explain", "Explanations"),
                ("/infer", "InferenceResponse"),
                ("/explanations/", "ImageExplanation"),
                ("/v2/models/", "ModelMetadata"),
            )
            if path in shlex.quote(local)
        )
        check_against_contract(answer, name)
