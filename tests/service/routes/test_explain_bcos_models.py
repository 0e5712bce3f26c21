"""A B-cos model over HTTP: its own map, its classes, and the methods that it does not have."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from legrad_engine.targets import ClassTarget
from tests.support.answers import check_against_contract, refused
from tests.support.bcos_models import write_bcos
from tests.support.cached_questions import image_url, maps_of
from tests.support.pictures import picture, request_of
from tests.support.running_app import RunningApp

pytest.importorskip("bcos")
pytest.importorskip("einops")

TARGETS = [{"type": "class", "index": 0}, {"type": "class", "index": 2}]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    with RunningApp(write_bcos(tmp_path_factory.mktemp("bcos")), decoding="exact") as started:
        yield started


def body_of(**options: Any) -> dict[str, Any]:
    return request_of(
        image=image_url(1),
        prompts=None,
        targets=TARGETS,
        options=options,
        output={"heatmap": "npy", "overlay": False},
    )


def test_the_answer_has_the_maps_of_the_engine(serving: RunningApp) -> None:
    response = serving.explain(body_of(method="bcos"))
    assert response.status_code == 200, response.text
    answer = response.json()
    check_against_contract(answer, "ExplainResponse")
    (image,) = answer["images"]
    assert image["method"]["name"] == "bcos"
    assert answer["layers"] == list(range(12))
    (expected,) = serving.model.explainer.explain(
        picture(seed=1), [ClassTarget(0), ClassTarget(2)], method="bcos"
    )
    scale = np.abs(expected.maps).max()
    np.testing.assert_allclose(maps_of(image) / scale, expected.maps / scale, atol=1e-4)
    assert expected.maps.min() < 0
    assert all(0 < each["probability"] < 1 for each in image["targets"])


def test_models_list_the_method_and_the_preprocessing(serving: RunningApp) -> None:
    (told,) = serving.client.get("/models").json()["models"]
    assert told["id"].startswith("bcos-simple_vit_ti")
    assert told["activation"] == "sigmoid"
    assert told["preprocessing"]["std"] == [1, 1, 1]
    assert told["preprocessing"]["source"] == "the package bcos"
    assert told["grid"] == {"rows": 14, "columns": 14}
    assert "units of the logit" in next(
        each["note"] for each in told["methods"] if each["name"] == "bcos"
    )


def test_methods_that_it_does_not_have_and_prompts_are_refused(serving: RunningApp) -> None:
    for name in ("textspan", "gem", "legrad-libra"):
        refused(serving.explain(body_of(method=name)), 422, "invalid-option", "options.method")
    refused(
        serving.explain(body_of(method="bcos", layers=1)), 422, "invalid-option", "options.layers"
    )
    refused(serving.explain(request_of(prompts=["a cat"])), 422, "invalid-target", "prompts")
