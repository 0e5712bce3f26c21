"""Runs the authors' own LeGrad in a process of its own and saves its maps.

Usage: ``run_reference.py FOLDER JOBS``, where JOBS is a JSON list of
``{"config", "weights", "image", "targets", "layer_index", "output"}``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reference_package import import_reference


def load_model(open_clip: Any, config: str, weights: str) -> Any:
    """A model of the reference's open_clip with the given weights."""
    from safetensors.torch import load_file

    settings = json.loads(Path(config).read_text())
    model = open_clip.CLIP(**settings)
    model.load_state_dict(load_file(weights))
    return model.eval()


def main() -> None:
    folder, jobs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    wrapper, open_clip = import_reference(folder)
    import torch

    for job in jobs:
        model = load_model(open_clip, job["config"], job["weights"])
        wrapped = wrapper(model, layer_index=job["layer_index"])
        maps = wrapped.compute_legrad_clip(
            torch.from_numpy(np.load(job["targets"])), torch.from_numpy(np.load(job["image"]))
        )
        np.save(job["output"], maps[0].detach().numpy())


if __name__ == "__main__":
    main()
