"""GEM against the authors' own package, at the width and heads of a real architecture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reference_package import ensure_installed
from legrad_engine import Explainer
from tests.support.architectures import seeded_checkpoint
from tests.support.paths import ROOT, TESTS
from tests.support.traced_maps import maps_of, noise, unit_vectors

pytestmark = pytest.mark.slow

# One block before the second path.
DEPTH = 7
SIZES = ((224, 224), (160, 256))


def test_gem_equals_the_authors_package(tmp_path: Path) -> None:
    config, weights = seeded_checkpoint("ViT-B-32", tmp_path, layers=DEPTH)
    targets = unit_vectors(3, 512, dtype=torch.float32)
    np.save(tmp_path / "targets.npy", targets.numpy())
    jobs = []
    for height, width in SIZES:
        images = tmp_path / f"{height}.npy"
        np.save(images, noise(1, 3, height, width, dtype=torch.float32).numpy())
        jobs.append(
            {
                "config": str(config),
                "weights": str(weights),
                "images": str(images),
                "targets": str(tmp_path / "targets.npy"),
                "output": str(tmp_path / f"{height}-maps.npy"),
            }
        )
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(TESTS / "legrad_engine" / "reference" / "run_gem.py")]
    subprocess.run(
        [*command, str(ensure_installed()), str(tmp_path / "jobs.json")],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    model = Explainer.load(str(config), str(weights)).model
    for job in jobs:
        pixels = torch.from_numpy(np.load(job["images"]))
        found, _ = maps_of(model, "gem", pixels, targets[None])
        expected = np.load(job["output"])
        assert expected.std() > 0.01
        assert np.abs(found.numpy() - expected).max() <= 1e-5
