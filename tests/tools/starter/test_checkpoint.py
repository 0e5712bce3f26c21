"""Checkpoints: another recipe and an unfinished training are refused with the remedy."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tools.starter.checkpoint import (
    check_complete,
    check_recipe,
    read_checkpoint,
    write_checkpoint,
)
from tools.starter.errors import StarterError
from tools.starter.training import SCHEDULE

RECIPE: dict[str, Any] = {
    "schedule": asdict(SCHEDULE),
    "styles": {"noto": 0.75, "fxemoji": 0.25},
    "workers": 2,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training" / "checkpoint.pt"


def write(path: Path, **state: Any) -> None:
    path.parent.mkdir()
    write_checkpoint(path, state)


def test_the_same_recipe_is_resumed_whatever_the_order_of_its_styles(path: Path) -> None:
    write(path, recipe=RECIPE)

    other_order = RECIPE | {"styles": {"fxemoji": 0.25, "noto": 0.75}}
    check_recipe(path, read_checkpoint(path), other_order)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("schedule", asdict(SCHEDULE) | {"seed": 1}),
        ("styles", {"noto": 0.5, "fxemoji": 0.5}),
        ("styles", {"noto": 0.75}),
        ("workers", 4),
    ],
)
def test_another_recipe_is_refused(path: Path, part: str, value: object) -> None:
    write(path, recipe=RECIPE)

    with pytest.raises(StarterError, match=f"{part}: delete the folder {path.parent}"):
        check_recipe(path, read_checkpoint(path), RECIPE | {part: value})


def test_a_checkpoint_without_a_recipe_is_neither_resumed_nor_exported(path: Path) -> None:
    write(path, seen=SCHEDULE.scenes)

    with pytest.raises(StarterError, match=f"delete the folder {path.parent}"):
        check_recipe(path, read_checkpoint(path), RECIPE)
    with pytest.raises(StarterError, match=f"delete the folder {path.parent}"):
        check_complete(path, read_checkpoint(path))


def test_only_a_finished_training_is_complete(path: Path) -> None:
    write(path, recipe=RECIPE, seen=SCHEDULE.scenes - 32)

    saved = read_checkpoint(path)
    with pytest.raises(StarterError, match="unfinished training, 294,368 of 294,400 scenes"):
        check_complete(path, saved)
    check_complete(path, saved | {"seen": SCHEDULE.scenes})
