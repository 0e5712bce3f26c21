"""timm's Eva: rotary positions are computed once, not for each picture."""

from typing import Any

import pytest
import timm
import torch

from legrad_engine.families.timm_eva import EvaTower


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_pe_core_tiny_patch16_384"]
)
def test_an_embedding_makes_no_table_of_positions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    trunk: Any = timm.create_model(name, depth=2, num_classes=0).eval()
    tower = EvaTower(trunk)
    pixels = torch.rand(2, 3, *tower.image_size)
    with torch.no_grad():
        tokens, _ = trunk._pos_embed(trunk.patch_embed(pixels))
        expected = trunk.norm_pre(tokens)
        monkeypatch.setattr(trunk.rope, "get_embed", lambda *_, **__: pytest.fail("made again"))
        assert torch.equal(tower.embed(pixels), expected)
