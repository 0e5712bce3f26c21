"""`make methods-eval` from one end to the other, on a few scenes of discs."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from legrad_engine import Explainer
from legrad_engine.evaluation.baselines import BASELINES
from legrad_engine.methods.registry import methods_of
from service.bulk.evaluation import run
from tests.support.art import NAMES, write_art
from tools.methods_eval.__main__ import main
from tools.methods_page import PAGE, page
from tools.methods_tables import FIGURES, PICTURE

pytest.importorskip("skimage", reason="the backgrounds need the optional extra 'starter'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Each method costs 40 forward passes for a scene of one sticker.
METHODS = {"legrad", "raw-attention", "maskclip"}


def test_one_command_measures_the_model_s_methods_writes_the_page_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BATCH", 1)
    monkeypatch.setattr(
        Explainer,
        "methods",
        property(lambda self: tuple(m for m in methods_of(self.tower) if m.name in METHODS)),
    )
    write_art(tmp_path / "art")
    docs, work = tmp_path / "docs", tmp_path / "work"
    app = typer.Typer()
    app.command()(main)
    options = ["--cache", tmp_path / "art", "--work", work, "--docs", docs, "--repeats", 1]

    first = CliRunner().invoke(app, [*map(str, options), "--scenes", "1"])
    assert first.exit_code == 0, first.output
    found = json.loads((docs / FIGURES).read_text())
    assert set(found["times"]) == METHODS
    assert found["classes"] == len(NAMES)
    for split in ("several", "single"):
        assert found[split]["scenes"] == 1
        for rows in found[split]["protocols"].values():
            assert set(rows) == METHODS | set(BASELINES)
    assert (docs / PAGE).read_text() == page(docs)
    assert "1 scenes of one sticker" in page(docs)
    with Image.open(docs / PICTURE) as picture:
        assert picture.format == "WEBP"

    journals = {path: path.read_bytes() for path in work.rglob("journal.jsonl")}
    shutil.rmtree(docs)
    again = CliRunner().invoke(app, [*map(str, options), "--scenes", "1"])
    assert again.exit_code == 0, again.output
    repeated = json.loads((docs / FIGURES).read_text())
    assert {split: repeated[split] for split in ("several", "single")} == {
        split: found[split] for split in ("several", "single")
    }
    assert {path: path.read_bytes() for path in journals} == journals
