"""Installation of the authors' LeGrad and GEM in a folder of its own, with an older open_clip."""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parents[1] / ".reference"
REQUIREMENTS = (
    "legrad_torch==1.1",
    "gem_torch==1.0.1",
    "open_clip_torch==2.23.0",
    "einops==0.8.2",
)
PACKAGES = ("legrad", "gem", "open_clip", "einops")


def ensure_installed() -> Path:
    """Install the references on first use; return their folder.

    They are installed without dependencies, so that both sides use the project's torch, timm and
    torchvision.
    """
    return install_aside(FOLDER, PACKAGES, REQUIREMENTS)


def install_aside(folder: Path, packages: Sequence[str], requirements: Sequence[str]) -> Path:
    """Install requirements without their dependencies into a folder of their own; return it.

    Args:
        folder: the folder.
        packages: names of the packages that are there once they are installed.
        requirements: as pip takes them.

    Raises:
        CalledProcessError: pip failed, such as without a network.
    """
    if not all((folder / package).is_dir() for package in packages):
        options = ["--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *requirements], check=True
        )
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
