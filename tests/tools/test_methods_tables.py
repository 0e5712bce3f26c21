"""The tables of docs/methods.md say what the JSON beside it holds."""

import json
from pathlib import Path
from typing import Any

from tools.methods_tables import FIGURES, measured

METHODS = ("legrad", "gem", "new")
WEIGHTS = "blake2b:1"


def figures() -> dict[str, Any]:
    overlap = {"pairs": 70.0, "mIoU, threshold 0.5": 0.5, "mAP": 0.8}
    return {
        "picture": {"prompt": "cat"},
        "classes": 288,
        "times": {"legrad": {"1": 1.25, "8": 2.0}, "gem": {"1": 1.5, "8": 1.5}},
        "several": {
            "scenes": 1234,
            "weights": WEIGHTS,
            "protocols": {
                "segmentation": {
                    "legrad": {**overlap, "pixel accuracy, threshold 0.5": 0.7},
                    "gem": {**overlap, "mIoU, threshold 0.5": 0.6},
                    "random": {**overlap, "mIoU, threshold 0.5": 0.9},
                },
                "localisation": {"legrad": {"pointing": 0.75}},
                "wrong-prompt": {
                    "legrad": {"mIoU, threshold 0.5": 0.2},
                    "gem": {"mIoU, threshold 0.5": 0.3},
                },
            },
        },
    }


def table(tmp_path: Path, content: dict[str, Any]) -> str:
    (tmp_path / FIGURES).write_text(json.dumps(content))
    return measured(tmp_path, METHODS, WEIGHTS)


def test_without_figures_nothing_is_said(tmp_path: Path) -> None:
    assert measured(tmp_path, METHODS, WEIGHTS) == ""


def test_the_best_of_a_column_is_bold_and_baselines_do_not_compete(tmp_path: Path) -> None:
    text = table(tmp_path, figures())
    assert "1,234 scenes of two or three stickers, 70 prompts" in text
    assert "up to 1.4 points" in text
    assert "| `legrad` | 50.0 | **70.0** | **80.0** | **75.0** | **20.0** |  |" in text
    assert "| `gem` | **60.0** |  | **80.0** |  | 30.0 |  |" in text
    assert "| `random` | 90.0 |  | 80.0 |  |  |  |" in text


def test_the_page_says_where_legrad_is_not_the_best(tmp_path: Path) -> None:
    text = " ".join(table(tmp_path, figures()).split())
    assert "LeGrad is not the best in: mIoU (`gem`), time of 8 targets (`gem`)." in text


def test_a_split_that_was_not_measured_is_told_in_place_of_its_table(tmp_path: Path) -> None:
    text = table(tmp_path, figures())
    assert "one sticker" not in text
    assert "insertion are not measured yet" in text
    assert "| `gem` | 1.50 | **1.50** |" in text


def test_a_method_without_figures_has_no_row(tmp_path: Path) -> None:
    assert "`new`" not in table(tmp_path, figures())


def test_figures_of_weights_that_are_no_longer_shipped_are_told(tmp_path: Path) -> None:
    assert "earlier weights" not in table(tmp_path, figures())
    assert "earlier weights" in measured(tmp_path, METHODS, "blake2b:2")
