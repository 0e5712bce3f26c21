"""Negative prompts correct the maps of a request."""

from typing import Any

import numpy as np
import pytest

from legrad_engine import Negatives
from legrad_engine.targets import ImageTarget
from legrad_engine.targets.kinds import Target
from tests.support.pictures import encoded, request_of
from tests.support.protocols import map_of
from tests.support.running_app import RunningApp
from tests.support.target_questions import IMAGE, OTHER, ask, engine_of


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ("siglip", "siglip"),
        ({"prompts": ["grass", "red"]}, Negatives(("grass", "red"))),
        ({"prompts": ["grass"], "weight": 0.5}, Negatives(("grass",), weight=0.5)),
        (
            {"prompts": ["grass"], "mode": "mask", "threshold": 0.5},
            Negatives(("grass",), "mask", threshold=0.5),
        ),
    ],
    ids=str,
)
def test_negatives_correct_every_map(running: RunningApp, asked: Any, rule: Any) -> None:
    corrected = ask(running, IMAGE, prompts=["a cat"], options={"negatives": asked})
    plain = ask(running, IMAGE, prompts=["a cat"])
    targets: list[Target | str] = ["a cat", ImageTarget(OTHER)]
    (expected,) = engine_of(running).explain([encoded()], targets, negatives=rule)
    for row, (found, before) in enumerate(zip(corrected, plain, strict=True)):
        np.testing.assert_allclose(map_of(found), expected.maps[row], atol=1e-6)
        assert np.abs(map_of(found) - map_of(before)).max() > 1e-6
        assert found["similarity"] == pytest.approx(before["similarity"], abs=1e-5)
        assert found["probability"] == before["probability"]


def test_negatives_go_with_templates_and_every_output(running: RunningApp) -> None:
    options = {"negatives": {"prompts": ["a cat"], "weight": 1000.0}, "templates": "simple"}
    response = running.explain(request_of(options=options))
    assert response.status_code == 200, response.text
    (target,) = response.json()["images"][0]["targets"]
    assert target["statistics"]["peak"] >= 0
