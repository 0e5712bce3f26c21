"""Checkpoints of training, each with the recipe that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tools.starter.errors import StarterError


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; an interruption leaves the one before it.

    Args:
        path: The file.
        state: `recipe` (the schedule, the styles and the number of workers in plain values), `seen`
            (scenes so far) and what resuming needs.
    """
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the file that training wrote."""
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def check_recipe(path: Path, saved: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Check that a checkpoint can be resumed by a recipe.

    Args:
        path: The file that it was read from.
        saved: What it holds.
        recipe: The recipe, as `write_checkpoint` takes it.

    Raises:
        StarterError: It is of another recipe, or does not tell which.
    """
    found = saved.get("recipe", {})
    other = [part for part, value in recipe.items() if found.get(part) != value]
    if other:
        raise StarterError(
            f"{path} is of another recipe, which differs in its {' and '.join(other)}: delete the "
            f"folder {path.parent} to train anew."
        )


def check_complete(path: Path, saved: Mapping[str, Any]) -> None:
    """Check that a checkpoint is of a training that ran to its end.

    Args:
        path: The file that it was read from.
        saved: What it holds.

    Raises:
        StarterError: It is not, or it does not tell its schedule.
    """
    if "recipe" not in saved:
        raise StarterError(
            f"{path} does not tell its recipe: delete the folder {path.parent}, and train anew."
        )
    stages = saved["recipe"]["schedule"]["stages"]
    wanted = sum(stage["batch"] * stage["steps"] for stage in stages)
    if saved["seen"] < wanted:
        raise StarterError(
            f"{path} is of an unfinished training, {saved['seen']:,} of {wanted:,} scenes: the "
            "same training resumes it."
        )
