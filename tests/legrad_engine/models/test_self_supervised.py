"""Checkpoints of self-supervised and distilled training load as plain ViTs."""

import argparse
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from legrad_engine import ClassTarget, Explainer

CLASSES = 7
ARCHITECTURE = "test_vit"
Weights = dict[str, Tensor]


def seeded(name: str) -> Weights:
    torch.manual_seed(0)
    weights: Weights = timm.create_model(name, num_classes=CLASSES).state_dict()
    return weights


def under(prefix: str, weights: Mapping[str, Tensor]) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def encoder() -> Weights:
    return {name: value for name, value in seeded(ARCHITECTURE).items() if name[:5] != "head."}


def dino(extra: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    network = under("backbone.", encoder()) | {
        "head.mlp.0.weight": torch.randn(8, 64),
        "head.mlp.0.bias": torch.randn(8),
        "head.last_layer.weight_g": torch.randn(9, 1),
        "head.last_layer.weight_v": torch.randn(9, 8),
        **(extra or {}),
    }
    student = under("module.", {name: value + 1 for name, value in network.items()})
    arguments = argparse.Namespace(arch="vit_small", patch_size=16)
    loss = {"center": torch.zeros(1, 9)}
    return {
        "student": student, "teacher": network, "optimizer": {"state": {}}, "epoch": 100,
        "args": arguments, "dino_loss": loss,
    }  # fmt: skip


def moco() -> dict[str, Any]:
    head = {
        "head.0.weight": torch.randn(40, 64),
        "head.1.weight": torch.ones(40),
        "head.1.running_mean": torch.ones(40),
        "head.1.num_batches_tracked": torch.tensor(1),
        "head.3.weight": torch.randn(30, 40),
    }
    base = encoder() | head
    momentum = {name: value + 1 for name, value in base.items()}
    weights = under("base_encoder.", base) | under("momentum_encoder.", momentum)
    weights |= {"predictor.0.weight": torch.randn(40, 30), "predictor.1.weight": torch.ones(40)}
    return {"epoch": 300, "arch": "vit_small", "state_dict": under("module.", weights)}


def mae() -> dict[str, Any]:
    decoder = {
        "mask_token": torch.randn(1, 1, 32),
        "decoder_pos_embed": torch.randn(1, 101, 32),
        "decoder_embed.weight": torch.randn(32, 64),
        "decoder_blocks.0.norm1.weight": torch.randn(32),
        "decoder_pred.weight": torch.randn(768, 32),
    }
    return {"model": encoder() | decoder, "optimizer": {}, "epoch": 800, "scaler": {}}


def layouts() -> Iterator[tuple[str, Any]]:
    yield "DINO", dino()
    yield "DINO, backbone", encoder()
    yield "MoCo v3", moco()
    yield "MAE, encoder", {"model": encoder()}
    yield "MAE, with its decoder", mae()
    yield "SGC on DINO", dino({"gnn.convs.0.lin.weight": torch.randn(4, 64)})


@pytest.mark.parametrize(("name", "content"), list(layouts()), ids=[name for name, _ in layouts()])
def test_a_self_supervised_encoder_is_a_plain_vit(
    name: str, content: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with caplog.at_level(logging.INFO, "legrad_engine"):
        explainer = Explainer.load(f"timm:{ARCHITECTURE}@{path}")
    own: Any = explainer.model.visual
    loaded = own.state_dict()
    for key, value in encoder().items():
        assert torch.equal(loaded[key], value)
    assert explainer.classifier is None
    left_out = "that serve training alone are left out" in caplog.text
    assert left_out == (name not in ("DINO, backbone", "MAE, encoder"))
    picture = Image.effect_noise((160, 160), 90).convert("RGB")
    trace = explainer.trace([picture], layers="all")
    (found,) = explainer.attribute(trace, trace.embeddings)
    assert found.maps.max() > 0


@pytest.mark.parametrize("name", [ARCHITECTURE, "deit_tiny_distilled_patch16_224"])
def test_deit_is_explained_for_its_classes(name: str, tmp_path: Path) -> None:
    weights, path = seeded(name), tmp_path / "weights.pth"
    torch.save({"model": weights}, path)
    explainer = Explainer.load(f"timm:{name}@{path}")
    assert explainer.classifier is not None
    assert explainer.classifier.count == CLASSES
    own: Any = explainer.model.visual
    assert torch.equal(
        own.state_dict()["blocks.1.mlp.fc1.weight"], weights["blocks.1.mlp.fc1.weight"]
    )


def test_a_fine_tuned_mae_pools_its_patches_before_its_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fine_tuned = timm.create_model(
        ARCHITECTURE, num_classes=CLASSES, global_pool="avg", fc_norm=True
    ).eval()
    path = tmp_path / "weights.pth"
    torch.save({"model": fine_tuned.state_dict()}, path)
    assert "norm.weight" not in fine_tuned.state_dict()
    explainer = Explainer.load(f"timm:{ARCHITECTURE}@{path}")
    picture = explainer.prepare(Image.effect_noise((160, 160), 90).convert("RGB"))
    with torch.no_grad():
        logits = fine_tuned(explainer.input_of([picture]))
    trace = explainer.trace([picture])
    assert explainer.classifier is not None
    found = explainer.classifier.probabilities(trace.features)
    torch.testing.assert_close(found, logits.softmax(-1), atol=1e-5, rtol=0)
    (explained,) = explainer.attribute(trace, [ClassTarget(index=1)])
    assert explained.maps.max() > 0
