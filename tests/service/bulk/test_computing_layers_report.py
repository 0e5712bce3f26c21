"""`legrad explain --layers-report`: the numbers of every block in the manifest."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.support.pictures import encoded, picture


def explain(source: Path, output: Path, model: str, *options: str) -> str:
    arguments = ["explain", str(source), "a cat", "a dog", "-o", str(output), "--model", model]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def reports(output: Path) -> list[dict[str, Any]]:
    lines = (output / "manifest.jsonl").read_text().splitlines()
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [entry for entry in entries if entry["layers_report"] is not None]


def test_every_prompt_has_its_report_in_the_manifest(tiny_model: str, tmp_path: Path) -> None:
    source, output = tmp_path / "picture.png", tmp_path / "out"
    source.write_bytes(encoded(picture(60, 40)))
    explain(source, output, tiny_model)
    assert reports(output) == []
    # Another question than the one without a report.
    said = explain(source, output, tiny_model, "--layers-report", "--method", "textspan")
    found = reports(output)
    assert [entry["prompt"] for entry in found] == ["a cat", "a dog"]
    for entry in found:
        report = entry["layers_report"]
        assert len(report["similarities"]) == len(report["ranks"]) == 3
        assert report["similarities"][-1] == pytest.approx(entry["similarity"], abs=1e-6)
        assert report["direct_effects"]["sum"] == pytest.approx(entry["similarity"], abs=1e-5)
        values = " ".join(f"{value:.2f}" for value in report["similarities"])
        assert f"{entry['prompt']}, similarity after each block: {values}" in said
    assert sorted(entry["layers_report"]["ranks"][-1] for entry in found) == [1, 2]
    again = explain(source, output, tiny_model, "--layers-report", "--method", "textspan")
    assert "1 done before" in again
