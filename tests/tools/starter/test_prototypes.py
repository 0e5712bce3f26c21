"""The start of short trainings: directions from features tell concepts without any step."""

from pathlib import Path

import pytest
import torch
import torch.distributed

from tests.support.art import NAMES, write_art
from tests.support.backbone import write_backbone
from tools.starter.art import load_sprites
from tools.starter.learner import Learner, initialise, normalise
from tools.starter.prototypes import start_from_features
from tools.starter.scenes import chunks
from tools.starter.styles import VALIDATION_STYLE

STYLES = {VALIDATION_STYLE: 1.0}
SIZE = 70


@pytest.mark.slow
def test_directions_from_features_name_stickers_without_a_step(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the backbone needs the optional extra 'starter'")
    pytest.importorskip("skimage", reason="the backgrounds need the optional extra 'starter'")
    write_art(tmp_path)
    write_backbone(tmp_path / "backbone.onnx")
    learner = initialise(tmp_path / "backbone.onnx", len(NAMES), SIZE, 0)
    at_random = _share_named(learner, tmp_path)
    meeting = f"file://{tmp_path}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        start_from_features(learner, load_sprites(tmp_path), STYLES, SIZE, 1, 32)
    finally:
        torch.distributed.destroy_process_group()
    assert learner.training
    norms = learner.concepts.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert _share_named(learner, tmp_path) > max(0.3, 1.5 * at_random)


@torch.no_grad()
def _share_named(learner: Learner, cache: Path) -> float:
    """Return the share of scenes of one sticker whose patches are nearest to its direction."""
    learner.eval()
    directions = torch.nn.functional.normalize(learner.concepts, dim=-1)[:-1]
    right = total = 0
    for scenes in chunks(load_sprites(cache), STYLES, (1,), 100, 32, SIZE):
        [tokens] = learner.block_outputs(normalise(scenes.images), 1)
        highest = (learner.embed(tokens[:, 1:]) @ directions.T).amax(1)
        right += int((highest.argmax(1) == scenes.concepts[:, 0]).sum())
        total += len(highest)
    learner.train()
    return right / total
