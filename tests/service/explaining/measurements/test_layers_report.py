"""`output.layers_report` in every protocol: answered, checked, batched, priced and refused."""

import json
from typing import Any

import numpy as np
import pytest

from tests.support.answers import check_against_contract, refused
from tests.support.cached_questions import Counted, body_of
from tests.support.pictures import encoded, picture
from tests.support.running_app import Held, RunningApp

PROMPTS = ["a cat", "two dogs", "red"]


def report_body(seed: int, prompts: list[str] = PROMPTS, **options: Any) -> dict[str, Any]:
    body = body_of(seed, prompts, **options)
    body["output"] = {"heatmap": "none", "overlay": False, "layers_report": True}
    return body


def reported(running: RunningApp, seed: int = 1, **options: Any) -> list[dict[str, Any]]:
    answer = running.explain(report_body(seed, **options))
    assert answer.status_code == 200, answer.text
    check_against_contract(answer.json(), "ExplainResponse")
    targets: list[dict[str, Any]] = answer.json()["images"][0]["targets"]
    return targets


def test_every_target_has_a_similarity_and_a_rank_after_each_block(running: RunningApp) -> None:
    targets = reported(running)
    reports = [target["layers_report"] for target in targets]
    similarities = np.array([report["similarities"] for report in reports])
    ranks = np.array([report["ranks"] for report in reports])
    assert similarities.shape == ranks.shape == (3, running.model.explainer.tower.depth)
    served = [target["similarity"] for target in targets]
    np.testing.assert_allclose(similarities[:, -1], served, atol=1e-6)
    for column, places in zip(similarities.T, ranks.T, strict=True):
        assert places.tolist() == [1 + int((column > value).sum()) for value in column]
    assert [report["direct_effects"] for report in reports] == [None] * 3


def test_nothing_is_reported_unless_it_is_asked_for(running: RunningApp) -> None:
    answer = running.explain(body_of(1, PROMPTS)).json()
    assert [each["layers_report"] for each in answer["images"][0]["targets"]] == [None] * 3


def test_with_textspan_the_effects_of_all_parts_sum_to_the_similarity(running: RunningApp) -> None:
    # The report is of all blocks, whichever ones are explained.
    for target in reported(running, method="textspan", layers=1):
        effects = target["layers_report"]["direct_effects"]
        total = sum(effects["blocks"]) + effects["input"] + effects["output_biases"]
        assert total == pytest.approx(target["similarity"], abs=1e-5)
        assert effects["sum"] == pytest.approx(total, abs=1e-6)
        assert abs(effects["gap"]) < 1e-5
        assert [len(heads) for heads in effects["heads"]] == [2, 2, 2]


def test_a_cached_forward_pass_does_not_change_the_report(running: RunningApp) -> None:
    first = reported(running, 7)
    counted = Counted(running)
    again = reported(running, 7)
    assert counted.work["hits"] == 1
    for one, other in zip(first, again, strict=True):
        np.testing.assert_allclose(
            one["layers_report"]["similarities"], other["layers_report"]["similarities"], atol=1e-6
        )


def test_reports_share_batches_of_their_own_kind(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        alone = [reported(running, seed, cache=False) for seed in (1, 2)]
        with Held(running) as held:
            waiting = [running.explain_in_background(body_of(9))]
            assert held.entered.wait(60)
            for place, body in enumerate((report_body(1), body_of(3, PROMPTS), report_body(2)), 1):
                waiting.append(running.explain_in_background(body))
                running.wait_for_queue(place)
            held.release()
            images = [each.result(60).json()["images"][0] for each in waiting]
        assert [image["batch_size"] for image in images] == [1, 2, 1, 2]
        for image, expected in zip((images[1], images[3]), alone, strict=True):
            for found, one in zip(image["targets"], expected, strict=True):
                np.testing.assert_allclose(
                    found["layers_report"]["similarities"],
                    one["layers_report"]["similarities"],
                    atol=1e-5,
                )


@pytest.mark.parametrize(
    ("options", "prompts", "field", "reason"),
    [
        ({"method": "raw-attention", "heads": "each"}, ["a cat"], "output.layers_report", "heads"),
        ({"method": "no-such-method"}, PROMPTS, "options.method", "no-such-method"),
    ],
)
def test_what_it_cannot_have_is_refused(
    running: RunningApp, options: dict[str, Any], prompts: list[str], field: str, reason: str
) -> None:
    answer = running.explain(report_body(1, prompts, **options))
    assert reason in refused(answer, 422, "invalid-option", field)


def test_a_picture_alone_has_no_place_for_it(running: RunningApp) -> None:
    body = report_body(1, ["a cat"])
    answer = running.client.post("/explain", json=body, headers={"Accept": "image/png"})
    refused(answer, 406, "not-acceptable", "output.layers_report")


def test_more_work_than_the_queue_holds_names_the_option(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=2.0) as running:
        assert running.explain(body_of(1, ["a cat"], method="raw-attention")).status_code == 200
        answer = running.explain(report_body(1, ["a cat"], method="raw-attention", cache=False))
        assert "fewer images" in refused(answer, 422, "limit-exceeded", "output.layers_report")


def test_every_protocol_with_output_options_answers_it(running: RunningApp) -> None:
    image, client, model = encoded(picture(80, 60, seed=1)), running.client, running.model.id
    expected = [each["layers_report"]["similarities"] for each in reported(running)]
    output = report_body(1)["output"]
    (kserve,) = client.post(
        f"/v1/models/{model}:explain", json={"instances": [report_body(1)]}
    ).json()["explanations"]
    torchserve = client.post(
        f"/explanations/{model}",
        params={"prompts": PROMPTS, "output": json.dumps(output)},
        content=image,
    ).json()
    multipart = client.post(
        "/explain", files={"image": image}, data={"prompts": PROMPTS, "output": json.dumps(output)}
    ).json()["images"][0]
    for found in (kserve, torchserve, multipart):
        values = [each["layers_report"]["similarities"] for each in found["targets"]]
        np.testing.assert_allclose(values, expected, atol=1e-5)
