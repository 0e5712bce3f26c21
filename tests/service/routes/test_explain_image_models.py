"""An image model without a text tower, over HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.support.answers import check_against_contract, refused
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp

NAME = "vit_tiny_patch16_224"
SHRUNK = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64, "num_classes": 3}
OUTPUT = {"heatmap": "none", "overlay": False, "regions_threshold": None}


@pytest.fixture(scope="module")
def classifying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An application with a small timm model, loaded from a folder as timm saves it."""
    folder = tmp_path_factory.mktemp("models") / "Own"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model(NAME, **SHRUNK).state_dict(), folder / "model.safetensors")
    settings = {
        "architecture": NAME,
        "num_classes": 3,
        "label_names": ["tench", "tabby, tabby cat", "beagle"],
        "model_args": SHRUNK,
        "pretrained_cfg": {"license": "mit", "input_size": [3, 64, 64], "fixed_input_size": True},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    with RunningApp(f"timm:local-dir:{folder}") as started:
        yield started


def body_of(**changes: Any) -> dict[str, Any]:
    return request_of(output=OUTPUT, **{"prompts": None, **changes})


def test_the_classes_of_an_image_model_are_answered(classifying: RunningApp) -> None:
    targets = [{"type": "class", "label": "Tabby"}, {"type": "class", "index": 2}]
    response = classifying.explain(body_of(targets=targets))
    assert response.status_code == 200, response.text
    answer = response.json()
    check_against_contract(answer, "ExplainResponse")
    (image,) = answer["images"]
    assert len(image["targets"]) == 2
    assert 0 < sum(target["probability"] for target in image["targets"]) < 1


def test_prompts_and_unknown_classes_are_refused(classifying: RunningApp) -> None:
    def ask(field: str, **changes: Any) -> str:
        response = classifying.explain(body_of(**changes))
        return refused(response, 422, "invalid-target", field)

    assert "no text" in ask("prompts", prompts=["a cat"])
    assert "tabby" in ask("targets.0.label", targets=[{"type": "class", "label": "tabbi"}])
    assert "0 to 2" in ask("targets.0.index", targets=[{"type": "class", "index": 3}])


def test_an_image_model_tells_its_licence_and_not_its_folder(classifying: RunningApp) -> None:
    (told,) = classifying.client.get("/models").json()["models"]
    assert told["id"] == "timm-own"
    assert told["name"] == "timm:local-dir:Own"
    assert told["licence"] == "mit"
    assert told["activation"] == "softmax"
    assert told["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert told["preprocessing"]["source"].startswith("all of timm's pretrained tags for")
    assert told["preprocessing"]["is_guess"] is False
    assert told["grid"] == {"rows": 4, "columns": 4}
