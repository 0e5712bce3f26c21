"""The manifest keeps each file with its prompt over several runs."""

from pathlib import Path

from typer.testing import CliRunner

from service.bulk.manifest import Entry, read
from service.cli import app
from tests.support.pictures import encoded, picture


def explain(source: Path, output: Path, model: str) -> list[Entry]:
    arguments = ["explain", str(source), "a cat", "a dog", "-o", str(output), "--model", model]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return read(output / "manifest.jsonl")


def test_files_keep_the_names_of_their_prompts(tiny_model: str, tmp_path: Path) -> None:
    source, output = tmp_path / "b.png", tmp_path / "out"
    source.write_bytes(encoded(picture(90, 60, seed=1)))
    first = explain(source, output, tiny_model)
    named = {entry.prompt: entry.overlay for entry in first}
    # One of two maps is lost; then the picture changes, so that both files are written again.
    (output / first[0].heatmap).unlink()
    mended = explain(source, output, tiny_model)
    assert [entry.prompt for entry in mended] == ["a cat", "a dog"]
    source.write_bytes(encoded(picture(90, 60, seed=2)))
    changed = explain(source, output, tiny_model)
    assert {entry.prompt: entry.overlay for entry in changed} == named
