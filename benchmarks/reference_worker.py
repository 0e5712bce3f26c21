"""The process in which the authors' LeGrad runs.

It reads input sizes from standard input, a line each, and answers each with seconds.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.reference_package import import_reference

READY = "ready"
_LAYERS = -2


def serve(folder: Path, weights: Path, target_count: int) -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # The reference prints; what it prints must not be taken for an answer.
    sys.stdout = sys.stderr
    wrapper, open_clip = import_reference(folder)
    # Only now: these import open_clip themselves, and must find the reference's.
    import torch
    from safetensors.torch import load_file

    from benchmarks import workload

    targets = workload.targets(target_count)
    models: dict[int, Any] = {}
    print(READY, file=answers)
    for line in sys.stdin:
        size = int(line)
        if size not in models:
            # One model for each size: the reference resamples positions into the weights.
            model = open_clip.CLIP(**open_clip.get_model_config(workload.ARCHITECTURE))
            model.load_state_dict(load_file(weights))
            models[size] = wrapper(model.eval(), layer_index=_LAYERS)
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        start = time.perf_counter()
        models[size].compute_legrad_clip(targets, pixels)
        print(time.perf_counter() - start, file=answers)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
