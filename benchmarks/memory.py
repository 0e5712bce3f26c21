"""Peak memory of explaining / that of a plain forward pass, each in a fresh process.

Linux only: its peak counter of a process can be reset, so that loading does not count.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import torch

from benchmarks import workload
from benchmarks.report import Row
from legrad_engine import Explainer

SIZE = 448
TARGETS = 8
_MIB = 1024


def measure(weights: Path, repeats: int) -> list[Row]:
    """Measure the memory rows: medians over fresh processes that take turns."""
    peaks: dict[str, list[dict[str, int]]] = {"plain": [], "explain": []}
    for _ in range(repeats):
        for work, found in peaks.items():
            found.append(_in_fresh_process(work, weights))
    middle = repeats // 2
    plain, explain = (
        sorted(found, key=lambda sample: sample["peak"])[middle] for found in peaks.values()
    )
    details: dict[str, object] = {
        name: {key: f"{value / _MIB:.0f} MiB" for key, value in sample.items()}
        for name, sample in (("plain", plain), ("explain", explain))
    }
    case = f"peak memory of {SIZE} px, {TARGETS} targets / plain"
    return [
        Row(
            f"{case}, whole process",
            explain["peak"] / plain["peak"],
            1.5,
            details=details,
        ),
        Row(
            f"{case}, above the loaded model",
            (explain["peak"] - explain["loaded"]) / (plain["peak"] - plain["loaded"]),
            1.5,
            details=details,
        ),
    ]


def _in_fresh_process(work: str, weights: Path) -> dict[str, int]:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", work, str(weights)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    sample: dict[str, int] = json.loads(finished.stdout)
    return sample


@torch.no_grad()
def peak(work: str, weights: Path) -> dict[str, int]:
    """Measure resident KiB of this process: with the model loaded, and the peak of the work."""
    if work == "plain":
        model = open_clip.create_model(
            workload.ARCHITECTURE,
            pretrained=str(weights),
            force_image_size=SIZE,
            weights_only=True,
        ).eval()
        pixels = torch.randn(1, 3, SIZE, SIZE)
        # One operation first, so that code pages and thread pools count for the loaded model.
        model.visual.conv1(pixels[..., :16, :16])
        loaded = _reset_peak()
        model.encode_image(pixels)
    else:
        explainer = Explainer.load(workload.ARCHITECTURE, str(weights))
        prepared = explainer.prepare(workload.picture(SIZE, SIZE), SIZE)
        targets = workload.targets(TARGETS)
        pixels = explainer.input_of([prepared])[0]
        explainer.model.visual.conv1(pixels[None, ..., :16, :16])  # type: ignore[operator, union-attr]
        loaded = _reset_peak()
        explainer.attribute(explainer.trace([prepared]), targets)
    return {"loaded": loaded, "peak": _status("VmHWM")}


def _reset_peak() -> int:
    """Reset the peak to the resident memory, and return that in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    print(json.dumps(peak(sys.argv[1], Path(sys.argv[2]))))
