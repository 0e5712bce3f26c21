"""`legrad explain --presence`: the calibrated presence in the table and in the manifest."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from legrad_engine import presence
from legrad_engine.models.reference import ModelReference
from legrad_engine.presence import PresenceCalibration, built_in
from service.bulk.questions import Question
from service.cli import app
from tests.support.calibrations import write_calibration
from tests.support.paths import EXAMPLES
from tests.support.pictures import encoded, picture


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(encoded(picture(90, 60)))
    return tmp_path / "a.png"


def explain(source: Path, output: Path, *arguments: object) -> Result:
    command = ["explain", str(source), "a pizza", "a balloon", "-o", str(output)]
    return CliRunner().invoke(app, [*command, *map(str, arguments)])


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def check(done: Result, entries: list[dict[str, Any]], expected: PresenceCalibration) -> None:
    """Check the presence in the manifest, and that the table tells the same."""
    assert done.exit_code == 0, done.output
    for entry in entries:
        assert entry["presence"] == pytest.approx(expected.probability(entry["similarity"]))
        (row,) = (line for line in done.stdout.splitlines() if entry["prompt"] in line)
        cells = [cell.strip() for cell in row.strip("│┃").split("│")]
        assert cells[3] == f"{entry['presence']:.2f}"
    assert "Presence" in done.stdout


def test_the_built_in_model_tells_what_is_there(tmp_path: Path) -> None:
    done = explain(EXAMPLES / "stickers.png", tmp_path / "out")
    calibration = built_in(ModelReference.parse("starter"))
    assert calibration is not None
    found = lines(tmp_path / "out")
    check(done, found, calibration)
    there = {entry["prompt"]: entry["presence"] for entry in found}
    assert there["a balloon"] < 0.1 < 0.9 < there["a pizza"]


def test_another_model_has_the_presence_of_its_calibration(source: Path, tiny_model: str) -> None:
    output, file = source.parent / "out", source.parent / "presence.json"
    plain = explain(source, output, "--model", tiny_model)
    assert plain.exit_code == 0, plain.output
    assert [entry["presence"] for entry in lines(output)] == [None, None]

    expected = write_calibration(file, tiny_model)
    done = explain(source, output, "--model", tiny_model, "--presence", file)
    check(done, lines(output)[2:], expected)


def test_maps_of_single_heads_have_the_presence_of_their_prompt(
    source: Path, tiny_model: str
) -> None:
    expected = write_calibration(source.parent / "presence.json", tiny_model)
    options = ["--method", "raw-attention", "--heads", "each", "--model", tiny_model]
    command = ["explain", str(source), "a cat", "-o", str(source.parent / "out"), *options]
    done = CliRunner().invoke(app, [*command, "--presence", str(source.parent / "presence.json")])
    assert done.exit_code == 0, done.output
    first, second = lines(source.parent / "out")
    assert first["presence"] == second["presence"]
    assert first["presence"] == pytest.approx(expected.probability(first["similarity"]))


def test_another_input_has_no_presence(source: Path, tiny_model: str) -> None:
    write_calibration(source.parent / "presence.json", tiny_model)
    options = ["--model", tiny_model, "--presence", source.parent / "presence.json"]
    done = explain(source, source.parent / "out", *options, "--fit", "pad")
    assert done.exit_code == 0, done.output
    assert [entry["presence"] for entry in lines(source.parent / "out")] == [None, None]


def test_results_of_another_calibration_are_other_results(source: Path, tiny_model: str) -> None:
    output, file = source.parent / "out", source.parent / "presence.json"
    options = ["--model", tiny_model, "--presence", file]
    write_calibration(file, tiny_model)
    first = explain(source, output, *options)
    assert "1 done before" in explain(source, output, *options).stdout
    expected = write_calibration(file, tiny_model, slope=3.0)
    second = explain(source, output, *options)
    check(second, lines(output)[2:], expected)
    assert first.stdout != second.stdout
    assert len({entry["question"] for entry in lines(output)}) == 2
    assert len({entry["overlay"] for entry in lines(output)}) == 4


def test_results_without_a_calibration_keep_their_digest(tiny_model: str, tmp_path: Path) -> None:
    digests = {Question("starter", ("a cat",)).digest("weights")}
    for slope in (3.0, 12.0):
        made = write_calibration(tmp_path / "presence.json", tiny_model, slope)
        digests.add(Question("starter", ("a cat",), presence=made).digest("weights"))
        read = PresenceCalibration.read(tmp_path / "presence.json")
        assert read.digest == made.digest
        digests.add(Question("starter", ("a cat",), presence=read).digest("weights"))
    assert len(digests) == 3


def test_a_run_with_nothing_left_to_do_loads_no_torch(source: Path, tiny_model: str) -> None:
    file = source.parent / "presence.json"
    write_calibration(file, tiny_model)
    options = ["--model", tiny_model, "--presence", str(file)]
    arguments = ["explain", str(source), "a cat", "-o", str(source.parent / "out"), *options]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    program = (
        "import sys; from typer.testing import CliRunner; from service.cli import app\n"
        f"result = CliRunner().invoke(app, {arguments!r})\n"
        "print(result.exit_code, sorted({'torch', 'open_clip'} & set(sys.modules)), result.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("0 [] 0 explained, 1 done before"), done.stdout + done.stderr


@pytest.mark.parametrize("model", ["starter", "tiny"])
def test_a_calibration_of_other_weights_is_refused_before_anything_is_written(
    source: Path, tiny_model: str, model: str
) -> None:
    output, file = source.parent / "out", source.parent / "presence.json"
    asked, other = ("starter", tiny_model) if model == "starter" else (tiny_model, "starter")
    write_calibration(file, other)
    refused = explain(source, output, "--model", asked, "--presence", file)
    assert refused.exit_code == 2
    assert "fitted for the weights" in refused.output
    assert "fit it again with legrad calibrate" in refused.output
    assert not output.exists()


def test_the_built_in_calibration_is_checked_as_well(
    source: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_calibration(source.parent / "presence.json", tiny_model)
    monkeypatch.setattr(presence, "_STARTER_FILE", source.parent / "presence.json")
    refused = explain(source, source.parent / "out")
    assert refused.exit_code == 2
    assert "fitted for the weights" in refused.output


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), (b"{}", "not a presence calibration")]
)
def test_a_file_that_is_no_calibration_is_refused_before_the_model_is_loaded(
    source: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (source.parent / "presence.json").write_bytes(content)
    file = source.parent / "presence.json"
    refused = explain(source, source.parent / "out", "--model", "absent", "--presence", file)
    assert refused.exit_code == 2
    assert reason in refused.output
