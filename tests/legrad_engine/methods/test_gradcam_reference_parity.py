"""GradCAM against the package grad-cam, installed in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.reference_package import install_aside
from legrad_engine.families import find_tower
from legrad_engine.methods.base import ModelParts
from legrad_engine.methods.registry import find_method
from tests.support.architectures import EMBEDDING_SIZE, seeded_model
from tests.support.paths import ROOT, TESTS

pytestmark = pytest.mark.slow

REQUIREMENT = "grad-cam==1.5.7"
PROGRAM = TESTS / "legrad_engine" / "reference" / "run_gradcam.py"


def unused(*_: object) -> None:
    raise AssertionError("GradCAM needs no such part")


def test_maps_equal_those_of_the_package(tmp_path: Path) -> None:
    try:
        folder = install_aside(ROOT / ".reference" / "gradcam", [REQUIREMENT])
    except subprocess.CalledProcessError:
        pytest.skip(f"{REQUIREMENT} cannot be installed here")
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(1, 3, 64, 64, generator=generator, dtype=torch.float64)
    targets = torch.randn(4, EMBEDDING_SIZE, generator=generator, dtype=torch.float64)
    targets = F.normalize(targets, dim=-1)
    source, output = tmp_path / "given.npz", tmp_path / "maps.npy"
    np.savez(source, pixels=pixels.numpy(), targets=targets.numpy())
    subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(source), str(output)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    tower = find_tower(seeded_model(dtype=torch.float64))
    method = find_method("gradcam", tower)
    layers, head = method.layers(tower, None), tower.served_head()
    with torch.no_grad():
        blocks, _ = method.trace(tower, tower.embed(pixels), layers, head)
        parts = ModelParts(unused, unused)  # type: ignore[arg-type]
        found = method.maps(tower, blocks, layers, head, targets[None], parts)[0]
    expected = np.load(output)
    assert expected.max() > 0
    np.testing.assert_allclose(found.view(expected.shape), expected, atol=1e-10)
