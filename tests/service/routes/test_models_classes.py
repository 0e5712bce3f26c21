"""The classes of a classifier over HTTP: listed in pages, and searched."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.answers import check_against_contract
from tests.support.own_models import write_classifier
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp

LABELS = [f"thing {index}" for index in range(250)]
LABELS[7], LABELS[9] = "tabby, tabby cat", "a cat"


@pytest.fixture(scope="module")
def classifying(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An application with a text model, and two classifiers that are loaded on demand."""
    folder = tmp_path_factory.mktemp("models")
    named = write_classifier(folder / "Named", LABELS, len(LABELS))
    nameless = write_classifier(folder / "Nameless", None, 5)
    models = f"{tiny_model},{named},{nameless}"
    with RunningApp(models, load_models="on-demand", key="key") as started:
        yield started


def classes_of(running: RunningApp, model: str, **query: Any) -> dict[str, Any]:
    response = running.client.get(f"/models/{model}/classes", params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    check_against_contract(answer, "ClassList")
    return answer


def test_the_first_question_loads_the_model(classifying: RunningApp) -> None:
    def told() -> dict[str, Any]:
        info: dict[str, Any] = classifying.client.get("/models/timm-nameless").json()
        check_against_contract(info, "ModelInfo")
        return info

    # An earlier run of this test may have loaded it.
    classifying.client.delete("/models/timm-nameless", params={"wait_seconds": 60})
    assert (told()["state"], told()["classes"]) == ("unloaded", None)
    assert classes_of(classifying, "timm-nameless") == {
        "total": 5,
        "found": 5,
        "classes": [{"index": index, "label": None} for index in range(5)],
    }
    assert (told()["state"], told()["classes"]) == ("ready", 5)


def test_a_request_waits_for_its_model_until_its_own_deadline(classifying: RunningApp) -> None:
    classifying.client.delete("/models/timm-nameless", params={"wait_seconds": 60})
    answer = classifying.client.get(
        "/models/timm-nameless/classes", headers={"X-Request-Timeout-Ms": "1"}
    )
    assert (answer.status_code, answer.json()["error"]) == (503, "not-ready")


def test_all_classes_are_read_in_pages(classifying: RunningApp) -> None:
    read = []
    for offset in range(0, 300, 100):
        page = classes_of(classifying, "timm-named", offset=offset)
        assert (page["total"], page["found"]) == (250, 250)
        read += page["classes"]
    assert [each["index"] for each in read] == list(range(250))
    assert [each["label"] for each in read] == LABELS


def test_a_search_finds_classes_by_words_and_by_index(classifying: RunningApp) -> None:
    found = classes_of(classifying, "timm-named", search="CAT")
    assert (found["total"], found["found"]) == (250, 2)
    assert found["classes"] == [
        {"index": 7, "label": "tabby, tabby cat"},
        {"index": 9, "label": "a cat"},
    ]
    assert classes_of(classifying, "timm-named", search="249", limit=1)["classes"] == [
        {"index": 249, "label": "thing 249"}
    ]
    assert classes_of(classifying, "timm-named", search="unicorn")["found"] == 0


def test_a_found_class_is_a_target(classifying: RunningApp) -> None:
    (found,) = classes_of(classifying, "timm-named", search="tabby")["classes"]
    body = {"prompts": None, "targets": [{"type": "class", "index": found["index"]}]}
    response = classifying.explain(request_of(model="timm-named", **body))
    assert response.status_code == 200, response.text
    (target,) = response.json()["images"][0]["targets"]
    assert target["target"] == "class 7: tabby, tabby cat"


def test_a_model_of_texts_has_no_classes(classifying: RunningApp) -> None:
    empty = {"total": 0, "found": 0, "classes": []}
    assert classes_of(classifying, "tiny-tiny", search="cat") == empty
    info = classifying.client.get("/models/tiny-tiny").json()
    assert (info["classes"], info["activation"]) == (0, "softmax")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "query.limit"),
        ({"limit": 1001}, "query.limit"),
        ({"offset": -1}, "query.offset"),
        ({"search": "x" * 201}, "query.search"),
    ],
)
def test_values_out_of_range_are_refused(
    classifying: RunningApp, query: dict[str, Any], field: str
) -> None:
    response = classifying.client.get("/models/timm-named/classes", params=query)
    assert response.status_code == 422
    problem = response.json()
    check_against_contract(problem, "ProblemDetails")
    assert (problem["error"], problem["field"]) == ("invalid-request", field)


def test_an_unknown_model_is_refused(classifying: RunningApp) -> None:
    response = classifying.client.get("/models/nothing/classes")
    assert (response.status_code, response.json()["error"]) == (404, "unknown-model")
