"""The processor cores of this process, and the number of workers that follows from them."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float:
    """Return the number of cores that this process may use: its affinity, or its quota if lower.

    Args:
        root: where the control groups are mounted.
        own: the file that names the control groups of this process.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min([affinity, *_quotas(root, own)])


def picture_processes(cores: float) -> int:
    """Return the number of picture processes: all cores but one, which is left for the rest."""
    return max(1, math.floor(cores) - 1)


def compute_threads(cores: float, device: str) -> int:
    """Return the number of threads that compute.

    Args:
        cores: number of available cores.
        device: type of the torch device. On an accelerator one thread gives it its work, and the
            other cores are for pictures.
    """
    return max(1, math.floor(cores)) if device == "cpu" else 1


def _quotas(root: Path, own: Path) -> list[float]:
    """Return the quotas of the own control groups and of those that they are part of, in cores."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder, read = root, _read_v2
        elif "cpu" in controllers.split(","):
            folder, read = root / controllers, _read_v1
            if not folder.is_dir():
                folder = root / "cpu"
        else:
            continue
        # Inside a container the path may be that of the host, which does not exist here.
        relative = Path(path.lstrip("/"))
        for part in (relative, *relative.parents):
            quota = read(folder / part)
            if quota is not None:
                found.append(quota)
    return found


def _read_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _read_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
