"""Training: how workers share a step, and which checkpoints are resumed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.art import write_art
from tests.support.backbone import write_backbone
from tools.starter.checkpoint import read_checkpoint
from tools.starter.errors import StarterError
from tools.starter.styles import VALIDATION_STYLE
from tools.starter.training import SCHEDULE, Run, Schedule, Stage, default_workers, train

SHORT = Schedule(stages=(Stage(56, 4, 2, 8), Stage(70, 4, 1)))


def run_in(folder: Path) -> Run:
    """A run of twelve scenes by two workers."""
    return Run(
        cache=folder / "art",
        folder=folder / "training",
        styles={VALIDATION_STYLE: 1.0},
        schedule=SHORT,
        workers=2,
        checkpoint_every=0.0,
    )


@pytest.mark.parametrize("workers", [3, 6, 64])
def test_workers_that_cannot_share_a_step_equally_are_refused(workers: int, tmp_path: Path) -> None:
    run = replace(run_in(tmp_path), schedule=SCHEDULE, workers=workers)

    with pytest.raises(StarterError, match="possible numbers: 1, 2, 4, 8, 16, 32"):
        train(run)
    assert not run.folder.exists()


def test_workers_share_the_steps_of_every_stage() -> None:
    schedule = Schedule(stages=(Stage(56, 12, 1), Stage(70, 8, 1)))

    assert schedule.worker_counts == (1, 2, 4)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 2), (6, 4), (8, 8), (64, 32)])
def test_as_many_workers_as_cores_that_share_a_step_equally(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_workers(SCHEDULE, cores) == workers

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_workers(SCHEDULE, cores) == 1


@pytest.mark.slow
def test_a_training_runs_to_its_end_and_is_resumed_by_its_own_recipe_alone(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the backbone needs the optional extra 'starter'")
    pytest.importorskip("skimage", reason="the backgrounds need the optional extra 'starter'")
    run = run_in(tmp_path)
    write_art(run.cache)
    write_backbone(run.cache / "backbone.onnx")

    train(run)

    saved = read_checkpoint(run.checkpoint)
    assert saved["seen"] == SHORT.scenes == 12
    assert saved["recipe"] == run.recipe
    assert all(tensor.isfinite().all() for tensor in saved["average"].values())
    # A finished training is not repeated.
    before = run.checkpoint.read_bytes()
    train(run)
    assert run.checkpoint.read_bytes() == before
    for other, differs in (
        (replace(run, workers=1), "workers"),
        (replace(run, schedule=replace(SHORT, seed=1)), "schedule"),
        (replace(run, styles={"noto": 1.0}, workers=4), "styles and workers"),
    ):
        with pytest.raises(StarterError, match=f"differs in its {differs}: delete the folder"):
            train(other)
    assert run.checkpoint.read_bytes() == before
    # From nothing, the same recipe makes the same weights.
    shutil.rmtree(run.folder)
    train(run)
    again = read_checkpoint(run.checkpoint)["weights"]
    assert all(torch.equal(tensor, again[name]) for name, tensor in saved["weights"].items())
