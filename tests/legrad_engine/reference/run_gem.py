"""Runs the authors' own GEM in a process of its own and saves its maps.

Usage: ``run_gem.py FOLDER JOBS``, where JOBS is a JSON list of
``{"config", "weights", "images", "targets", "output"}``.
"""

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.reference_package import import_reference


def main() -> None:
    wrapper, open_clip = import_reference(Path(sys.argv[1]), "gem")
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    for job in json.loads(Path(sys.argv[2]).read_text()):
        model = open_clip.CLIP(**json.loads(Path(job["config"]).read_text()))
        model.load_state_dict(load_file(job["weights"]))
        # Prompts go through a tokenizer; targets here are vectors already.
        visual = wrapper(model.eval(), tokenizer=None).model.visual
        with torch.no_grad():
            features, _ = visual(torch.from_numpy(np.load(job["images"])))
        cosines = F.normalize(features, dim=-1)[:, 1:] @ torch.from_numpy(np.load(job["targets"])).T
        np.save(job["output"], cosines.transpose(1, 2).numpy())


if __name__ == "__main__":
    main()
