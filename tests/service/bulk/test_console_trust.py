"""The trust in a map in one sentence, on the command line and in the manifest."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.bulk.console import trust_in_words
from service.cli import app
from tests.support.pictures import encoded, picture

NO_AGREEMENT = {"neutral": None, "others": None, "blocks": None}


def trust(warmest: float, random: float, score: str = "similarity") -> dict[str, Any]:
    return {"perturbation": {"warmest": warmest, "random": random, "score": score}}


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        (trust(0.08, 0.02), "lowers the similarity 4 times as much as a random fifth."),
        (trust(0.1, 0.08), "lowers the similarity 1.2 times as much as a random fifth."),
        (trust(0.01, 0.04), "lowers the similarity only 0.25 times as much as a random fifth."),
        (trust(0.2, -0.1, "probability"), "lowers the probability by 0.2; a random fifth does not"),
        (trust(0.2, 0.0), "lowers the similarity by 0.2; a random fifth does not lower it."),
        (trust(-0.05, 0.1), "raises the similarity by 0.05: the map does not show its evidence."),
        (trust(0.00001, 0.1), "hardly changes the similarity."),
        (
            {"perturbation": None, "agreement": {**NO_AGREEMENT, "neutral": 0.314, "blocks": 1}},
            "Rank correlation: 0.31 with the map of a neutral prompt, 1.00 between the maps",
        ),
        ({"perturbation": None, "agreement": NO_AGREEMENT}, "no map to compare with"),
    ],
    ids=str,
)
def test_numbers_become_a_sentence(measured: dict[str, Any], sentence: str) -> None:
    assert sentence in trust_in_words(measured)


def test_the_command_line_tells_it_and_the_manifest_keeps_it(
    tiny_model: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(seed=1)))
    plain = [str(tmp_path / "a.png"), "a cat", "a dog", "--model", tiny_model]
    asked = ["explain", *plain, "-o", str(tmp_path / "out")]
    told = CliRunner().invoke(app, [*asked, "--trust", "quick"])
    assert told.exit_code == 0, told.output
    assert "a dog: Removing the warmest fifth" in told.output
    manifest = tmp_path / "out" / "manifest.jsonl"
    measured = [json.loads(line)["trust"] for line in manifest.read_text().splitlines()]
    assert [each["level"] for each in measured] == ["quick", "quick"]
    assert measured[0] != measured[1]
    # Another question of the same folder: the run measures nothing.
    assert CliRunner().invoke(app, asked).exit_code == 0
    kept = [json.loads(line)["trust"] for line in manifest.read_text().splitlines()]
    assert sum(each is None for each in kept) == 2
    assert CliRunner().invoke(app, [*asked, "--trust", "all"]).exit_code == 2
