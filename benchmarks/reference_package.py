"""Installation of the authors' LeGrad in its own folder: it needs an older open_clip."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parents[1] / ".reference"
REQUIREMENTS = ("legrad_torch==1.1", "open_clip_torch==2.23.0", "einops==0.8.2")


def ensure_installed() -> Path:
    """Install the reference on first use; return its folder.

    It is installed without dependencies, so that both sides use the project's torch, timm and
    torchvision.
    """
    if not (FOLDER / "legrad").is_dir():
        options = ["--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *REQUIREMENTS], check=True
        )
    return FOLDER


def import_reference(folder: Path) -> tuple[Any, Any]:
    """Import the reference's wrapper class and its open_clip, in a process of its own.

    It imports matplotlib and cv2 only for a drawing helper that is not called here; empty modules
    in their place save two large installations.
    """
    sys.path.insert(0, str(folder))
    sys.modules |= {name: ModuleType(name) for name in ("cv2", "matplotlib", "matplotlib.pyplot")}
    import legrad  # type: ignore[import-not-found]
    import open_clip

    if not Path(open_clip.__file__).is_relative_to(folder):
        raise RuntimeError(f"open_clip came from {open_clip.__file__}, not from {folder}")
    return legrad.LeWrapper, open_clip
