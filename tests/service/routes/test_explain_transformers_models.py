"""Models of transformers, over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.answers import check_against_contract, refused
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp
from tests.support.transformers_models import saved

OUTPUT = {"heatmap": "none", "overlay": False, "regions_threshold": None}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An application with a classifier and a model of image and text, each from its folder."""
    root = tmp_path_factory.mktemp("models")
    folders = (
        saved("ViTForImageClassification", root / "Own ViT"),
        saved("CLIPModel", root / "Own CLIP"),
    )
    with RunningApp(",".join(f"transformers:{folder}" for folder in folders)) as started:
        yield started


def ask(served: RunningApp, **changes: Any) -> Any:
    return served.explain(request_of(output=OUTPUT, **changes))


def test_models_are_told_without_their_folders(served: RunningApp) -> None:
    told = served.client.get("/models").json()["models"]
    assert [(each["id"], each["name"]) for each in told] == [
        ("own-vit", "transformers:Own ViT"),
        ("own-clip", "transformers:Own CLIP"),
    ]
    for each in told:
        assert each["grid"] == {"rows": 4, "columns": 4}
        assert each["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
        assert each["preprocessing"]["source"] == "the model's image processor"
        assert not each["preprocessing"]["is_guess"]


def test_a_classifier_answers_for_its_labels(served: RunningApp) -> None:
    targets = [{"type": "class", "label": "tabby"}, {"type": "class", "label": "Red fox"}]
    response = ask(served, model="own-vit", prompts=None, targets=targets)
    assert response.status_code == 200, response.text
    check_against_contract(response.json(), "ExplainResponse")
    (image,) = response.json()["images"]
    assert 0 < sum(target["probability"] for target in image["targets"]) < 1
    refused(ask(served, model="own-vit"), 422, "invalid-target", "prompts")


def test_a_model_of_image_and_text_answers_prompts(served: RunningApp) -> None:
    response = ask(served, model="own-clip", prompts=["a cat", "the red sofa"])
    assert response.status_code == 200, response.text
    (image,) = response.json()["images"]
    assert sum(target["probability"] for target in image["targets"]) == pytest.approx(1, abs=1e-4)
    refused(
        ask(served, model="own-clip", prompts=["a red cat on the red sofa a cat"]),
        422,
        "invalid-target",
        "prompts",
    )
