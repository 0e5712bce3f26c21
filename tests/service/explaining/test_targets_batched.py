"""Targets of several requests that share one batch."""

import pytest
import torch

from tests.support.answers import refused
from tests.support.pictures import data_url, encoded, request_of, unseen
from tests.support.running_app import Held, RunningApp
from tests.support.target_questions import CAT, DOG, IMAGE, engine_of


def test_equal_target_pictures_of_a_batch_share_one_forward_pass(
    running: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = engine_of(running).tower
    passes: list[int] = []
    embed = tower.embed

    def counting(pixels: torch.Tensor) -> torch.Tensor:
        passes.append(len(pixels))
        return embed(pixels)

    with Held(running) as held:
        first = running.explain_in_background(request_of(options={"cache": False}))
        assert held.entered.wait(60)
        body = request_of(prompts=None, targets=[IMAGE, CAT])
        later = [
            running.explain_in_background({**body, "image": data_url(encoded(unseen()))})
            for _ in range(3)
        ]
        running.wait_for_queue(3)
        monkeypatch.setattr(tower, "embed", counting)
        held.release()
        assert [each.result().status_code for each in [first, *later]] == [200] * 4
    assert passes[1:] == [1, 3]


def test_one_request_s_impossible_target_does_not_fail_its_batch(running: RunningApp) -> None:
    nothing = {"type": "contrast", "target": CAT, "against": CAT}
    explained = {"type": "residual", "target": DOG, "distractors": [CAT, DOG]}
    with Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(60)
        good = running.explain_in_background(request_of(prompts=["a cat"]))
        bad = [
            running.explain_in_background(request_of(prompts=["a cat"], targets=[CAT, target]))
            for target in (nothing, explained)
        ]
        last = running.explain_in_background(request_of(prompts=["a dog"]))
        running.wait_for_queue(4)
        held.release()
        for each in (first, good, last):
            assert each.result().status_code == 200
        assert "same" in refused(bad[0].result(), 422, "invalid-target", "targets.1")
        assert "fully" in refused(bad[1].result(), 422, "invalid-target", "targets.1")


def test_a_target_picture_counts_as_work(tiny_model: str) -> None:
    with RunningApp(tiny_model, max_queue_cost=2.0) as running:
        assert running.explain(request_of(targets=[CAT])).status_code == 200
        response = running.explain(request_of(targets=[IMAGE], options={"cache": False}))
        assert (response.status_code, response.json()["error"]) == (422, "too-much-work")
