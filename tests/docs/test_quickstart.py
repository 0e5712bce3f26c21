"""The sample answer of the quickstart is what the built-in model answers."""

import json
from typing import Any

import pytest

from service.schemas.answers import ExplainResponse
from tests.support.documents import blocks
from tests.support.paths import DOCS, EXAMPLES
from tests.support.running_app import RunningApp

pytestmark = pytest.mark.slow


def comparable(answer: Any, tolerance: float | None = None) -> Any:
    """Return an answer without images and what differs from run to run.

    Args:
        answer: the answer, or a part of it.
        tolerance: the relative tolerance of its numbers, to compare it with another; or None.
    """
    differs = {"request_id", "timings", "heatmap", "overlay"}
    if isinstance(answer, dict):
        return {
            name: comparable(value, tolerance)
            for name, value in answer.items()
            if name not in differs
        }
    if isinstance(answer, list):
        return [comparable(value, tolerance) for value in answer]
    if isinstance(answer, float) and tolerance is not None:
        return pytest.approx(answer, rel=tolerance)
    return answer


def test_the_sample_answer_is_the_servers() -> None:
    (sample,) = (
        json.loads(block.text)
        for block in blocks(DOCS / "quickstart.md")
        if block.language == "json"
    )
    ExplainResponse.model_validate(sample)
    with RunningApp("starter") as running:
        answer = running.client.post(
            "/explain",
            files={"image": (EXAMPLES / "stickers.png").read_bytes()},
            data={"prompts": ["a cat", "a pizza"]},
        ).json()
    cat, pizza = answer["images"][0].pop("targets")
    answer["images"][0]["targets"] = [pizza]
    # The sample has four digits.
    assert comparable(answer) == comparable(sample, tolerance=1e-3)
    # As the text below the sample says.
    assert cat["probability"] == pytest.approx(0.005, abs=0.001)
