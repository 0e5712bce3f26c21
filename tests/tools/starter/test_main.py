"""The commands: one makes everything, and a refusal is one line."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.art import write_art
from tests.support.forked_program import ForkedProgram, module_program
from tools.starter import __main__ as program

RECIPE = ("art_command", "train", "export", "calibrate", "samples", "evaluate")


def test_one_command_runs_the_whole_recipe_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, object]] = []
    for name in RECIPE:

        def record(cache: Path, *values: object, name: str = name, **named: object) -> None:
            ran.append((name, (cache, *values, *named.values())))

        # The commands themselves take hours.
        monkeypatch.setattr(program, name, record)

    options = ["--cache", str(tmp_path), "--workers", "2", "--scenes", "7"]
    found = CliRunner().invoke(program.app, ["all", *options])

    assert found.exit_code == 0, found.output
    values = {"train": (tmp_path, 2), "evaluate": (tmp_path, 7)}
    assert ran == [(name, values.get(name, (tmp_path,))) for name in RECIPE]


@pytest.mark.slow
def test_a_refusal_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    write_art(tmp_path)

    arguments = ["starter", "train", "--workers", "3", "--cache", str(tmp_path)]
    training = ForkedProgram(module_program("tools.starter"), arguments, os.environ)
    _, errors = training.communicate(timeout=240)

    assert training.wait() == 1
    assert errors.startswith("Error: 3 workers cannot share the scenes of a step equally")
    assert errors.count("\n") == 1
