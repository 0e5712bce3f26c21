"""Process of the authors' LeGrad.

It reads input sizes from standard input, one per line, and writes seconds for each.
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
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # The reference prints to standard output, which must not mix with the answers.
    sys.stdout = sys.stderr
    wrapper, open_clip = import_reference(folder)
    # Imported late, because these import open_clip and must find that of the reference.
    import torch
    from safetensors.torch import load_file

    from benchmarks import workload

    targets = workload.targets(target_count)
    models: dict[int, Any] = {}
    print(READY, file=answers)
    for line in sys.stdin:
        size = int(line)
        if size not in models:
            # One model per size, because the reference resamples positions in the weights.
            model = open_clip.CLIP(**open_clip.get_model_config(workload.ARCHITECTURE))
            model.load_state_dict(load_file(weights))
            models[size] = wrapper(model.eval(), layer_index=_LAYERS)
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        start = time.perf_counter()
        models[size].compute_legrad_clip(targets, pixels)
        print(time.perf_counter() - start, file=answers)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
