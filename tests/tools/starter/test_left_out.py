"""Trainings without a family: families share no style, and the page says what was measured."""

import json
from pathlib import Path

import pytest

from tools.starter import left_out
from tools.starter.left_out import SHORT, LeftOut, Measured, read_rows, to_json, to_markdown
from tools.starter.styles import INTERFACE_ICONS, TRAINING_FAMILIES, TRAINING_STYLES, family_of
from tools.starter.training import Schedule, Stage

ROWS = {
    "Noto": LeftOut(
        drawings=900, unseen=Measured(0.25, 0.5, 0.3, 0.2), seen=Measured(0.5, 0.625, 0.4, 0.1)
    )
}


def test_drawings_of_the_same_designs_are_one_family() -> None:
    assert {family_of(f"fluent-emoji{end}") for end in ("", "-3d", "-flat")} == {"Fluent"}
    assert family_of("noto") == family_of("noto-v1") == "Noto"
    assert family_of("symbola") == family_of("symbola-coloured-in") == "Symbola"
    assert family_of("lucide") == family_of("tabler-coloured-in") == INTERFACE_ICONS


def test_every_family_has_styles_of_training() -> None:
    assert {family_of(style) for style in TRAINING_STYLES} == set(TRAINING_FAMILIES)
    assert len(TRAINING_FAMILIES) == 7


def test_the_page_sets_the_training_without_a_family_beside_the_one_with_it() -> None:
    page = to_markdown(ROWS, 300)

    assert "| Noto | 900 | 50.0% | 25.0% | 62.5% | 50.0% | 0.400 | 0.300 | 10.0% | 20.0% |" in page
    assert f"{SHORT.scenes:,} scenes" in page


def test_the_file_has_every_digit() -> None:
    document = json.loads(to_json(ROWS, 300))

    assert document["training_scenes"] == SHORT.scenes
    assert document["families"]["Noto"]["unseen"]["pointing"] == 0.5


def test_rows_of_an_earlier_run_are_read_if_all_was_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "left-out.json"
    assert read_rows(path, 300) == {}
    path.write_text(to_json(ROWS, 300))
    assert read_rows(path, 300) == ROWS
    assert read_rows(path, 301) == {}
    monkeypatch.setattr(left_out, "SHORT", Schedule(stages=(Stage(112, 32, 121, 48),)))
    assert read_rows(path, 300) == {}


def test_families_that_are_not_measured_yet_are_named() -> None:
    assert "Not measured yet: Fluent, " in to_markdown(ROWS, 300)
    assert "Not measured yet" not in to_markdown(dict.fromkeys(TRAINING_FAMILIES, ROWS["Noto"]), 1)
