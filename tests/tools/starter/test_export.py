"""Targets of the text tower, and the refusal of an unfinished training."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional

from tests.support.art import write_art
from tools.starter.art import load_sprites
from tools.starter.checkpoint import write_checkpoint
from tools.starter.errors import StarterError
from tools.starter.export import aim, quietest_direction, write_model
from tools.starter.training import SCHEDULE


def test_unknown_words_are_aimed_at_what_pictures_lack() -> None:
    torch.manual_seed(0)
    lacking = functional.normalize(torch.randn(8), dim=0)
    pictures = torch.randn(200, 8) + 2
    pictures = functional.normalize(
        pictures - 0.99 * (pictures @ lacking)[:, None] * lacking, dim=1
    )

    found = quietest_direction(pictures)

    assert abs(float(found @ lacking)) > 0.99
    assert (pictures @ found).abs().max() < 0.1
    assert (pictures @ found).mean() <= 0


def test_targets_are_unit_vectors_that_differ_more_than_the_learned_directions() -> None:
    torch.manual_seed(0)
    shared = functional.normalize(torch.randn(16), dim=0)
    concepts = functional.normalize(torch.randn(9, 16), dim=1) + shared
    unknown = functional.normalize(torch.randn(16), dim=0)

    targets = aim(concepts, unknown)

    learned = functional.normalize(concepts[:-1], dim=1)
    torch.testing.assert_close(targets.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(targets[-1], unknown)
    assert (targets[:-1] @ targets[:-1].T).mean() < (learned @ learned.T).mean()


def test_an_unfinished_training_is_not_exported(tmp_path: Path) -> None:
    cache, folder = tmp_path / "art", tmp_path / "model"
    write_art(cache)
    (cache / "training").mkdir()
    state = {"recipe": {"schedule": asdict(SCHEDULE)}, "seen": 32, "average": {}}
    write_checkpoint(cache / "training" / "checkpoint.pt", state)

    with pytest.raises(StarterError, match="unfinished training, 32 of 294,400 scenes"):
        list(write_model(load_sprites(cache), cache, folder, 1))
    assert not folder.exists()
