"""Installation of the authors' LeGrad and GEM in a folder of its own, with an older open_clip."""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.once import make_once

FOLDER = Path(__file__).parents[1] / ".reference"
REQUIREMENTS = (
    "legrad_torch==1.1",
    "gem_torch==1.0.1",
    "open_clip_torch==2.23.0",
    "einops==0.8.2",
)


def ensure_installed() -> Path:
    """Install the references on first use; return their folder.

    They are installed without dependencies, so that both sides use the project's torch, timm and
    torchvision.
    """
    return install_aside(FOLDER, REQUIREMENTS)


def install_aside(folder: Path, requirements: Sequence[str]) -> Path:
    """Install requirements without their dependencies into a folder of their own; return it.

    Args:
        folder: the folder.
        requirements: as pip takes them.

    Raises:
        CalledProcessError: pip failed, such as without a network.
    """

    def install() -> None:
        options = ["--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *requirements], check=True
        )

    make_once(folder, "\n".join(requirements), install)
    return folder


def import_reference(folder: Path, package: str = "legrad") -> tuple[Any, Any]:
    """Import a reference and its open_clip, in a process of its own.

    The references import matplotlib and cv2 only for drawing helpers that are not called here;
    empty modules in their place save two large installations.

    Args:
        folder: from :func:`ensure_installed`.
        package: ``"legrad"`` or ``"gem"``.

    Returns:
        The class that wraps a model, and open_clip.
    """
    sys.path.insert(0, str(folder))
    sys.modules |= {name: ModuleType(name) for name in ("cv2", "matplotlib", "matplotlib.pyplot")}
    reference = importlib.import_module(package)
    import open_clip

    if not Path(open_clip.__file__).is_relative_to(folder):
        raise RuntimeError(f"open_clip came from {open_clip.__file__}, not from {folder}")
    wrapper = reference.LeWrapper if package == "legrad" else reference.GEMWrapper
    return wrapper, open_clip
