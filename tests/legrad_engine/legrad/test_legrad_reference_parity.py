"""The engine against the authors' own code, where that is right, and apart from it where not.

Width, heads, patches and image size are those of the real architectures; four blocks and a narrow
text tower keep memory and time small. Weights are random, seeded, and loaded from one file by both.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.reference_package import ensure_installed
from legrad_engine import Explainer, Explanation, Geometry
from legrad_engine.images.inputs import PreparedImage
from tests.support.architectures import seeded_checkpoint
from tests.support.paths import ROOT, TESTS

pytestmark = pytest.mark.slow

ARCHITECTURES = ["ViT-B-32", "ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14"]
DEPTH = 4
LAYERS: dict[Any, int] = {2: -2, "all": 0}
SIDE = 224


def seeded_inputs(embedding_size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two images and three unit target vectors."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(2, 3, 9, 9, generator=generator)
    images = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    targets = F.normalize(torch.randn(3, embedding_size, generator=generator), dim=-1)
    return images.numpy(), targets.numpy()


class Case:
    """One architecture's files and what the reference made of them."""

    def __init__(self, architecture: str, folder: Path) -> None:
        self.config, self.weights = seeded_checkpoint(architecture, folder, layers=DEPTH)
        embedding_size = json.loads(self.config.read_text())["embed_dim"]
        self.images, self.targets = seeded_inputs(embedding_size)
        self.folder = folder / architecture
        self.folder.mkdir()

    def job(self, name: str, layer_index: int, images: int = 1, targets: int = 3) -> dict[str, Any]:
        np.save(self.folder / f"{name}-images.npy", self.images[:images])
        np.save(self.folder / f"{name}-targets.npy", self.targets[:targets])
        return {
            "config": str(self.config),
            "weights": str(self.weights),
            "image": str(self.folder / f"{name}-images.npy"),
            "targets": str(self.folder / f"{name}-targets.npy"),
            "layer_index": layer_index,
            "output": str(self.folder / f"{name}.npy"),
        }

    def reference(self, name: str) -> NDArray[np.float32]:
        maps: NDArray[np.float32] = np.load(self.folder / f"{name}.npy")
        return maps

    def ours(self, layers: Any, images: int = 1, targets: int = 3) -> list[Explanation]:
        explainer = Explainer.load(str(self.config), str(self.weights))
        geometry = Geometry(
            (SIDE, SIDE), (SIDE, SIDE), (0, 0, SIDE, SIDE), explainer.tower.patch_size
        )
        prepared = [PreparedImage(pixels, geometry) for pixels in self.images[:images]]
        trace = explainer.trace(prepared, layers=layers)
        return explainer.attribute(trace, torch.from_numpy(self.targets[:targets]))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every architecture, after one run of the reference over all of them."""
    folder = tmp_path_factory.mktemp("reference")
    cases = {name: Case(name, folder) for name in ARCHITECTURES}
    jobs = [
        case.job(f"{layers}", layer_index)
        for case in cases.values()
        for layers, layer_index in LAYERS.items()
    ]
    jobs.append(cases["ViT-B-32"].job("two images, one prompt", -2, images=2, targets=1))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = TESTS / "legrad_engine" / "reference" / "run_reference.py"
    subprocess.run(
        [sys.executable, str(script), str(ensure_installed()), str(folder / "jobs.json")],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return cases


def finished(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Maps upsampled to the input and stretched to 0 to 1, as the reference returns them."""
    upsampled = F.interpolate(
        torch.from_numpy(maps)[None].double(), size=(SIDE, SIDE), mode="bilinear"
    )[0]
    low, high = upsampled.amin((1, 2), keepdim=True), upsampled.amax((1, 2), keepdim=True)
    stretched: NDArray[np.float64] = ((upsampled - low) / (high - low)).numpy()
    return stretched


@pytest.mark.parametrize("layers", LAYERS, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_square_image_gives_the_reference_s_maps(
    architecture: str, layers: Any, cases: dict[str, Case]
) -> None:
    case = cases[architecture]
    (explanation,) = case.ours(layers)
    expected = case.reference(f"{layers}")
    assert expected.std() > 0.05
    assert np.abs(finished(explanation.maps) - expected).max() <= 1e-5


def test_several_images_get_a_map_each_where_the_reference_mixes_them(
    cases: dict[str, Case],
) -> None:
    case = cases["ViT-B-32"]
    together = case.ours(2, images=2, targets=1)
    assert len(together) == 2
    first, second = (finished(explanation.maps) for explanation in together)
    (alone,) = case.ours(2, images=1, targets=1)
    np.testing.assert_allclose(first, finished(alone.maps), atol=1e-5)
    assert np.abs(first - second).max() > 0.1

    # The reference rearranges the heads of both images into one mean: one map for two pictures.
    mixed = case.reference("two images, one prompt")
    assert mixed.shape == (1, SIDE, SIDE)
    raw = sum(explanation.maps for explanation in together)
    np.testing.assert_allclose(finished(np.asarray(raw)), mixed, atol=1e-5)
