"""The authors' own LeGrad, in a side folder: it needs an open_clip older than the project's."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parents[1] / ".reference"
REQUIREMENTS = ("legrad_torch==1.1", "open_clip_torch==2.23.0", "einops==0.8.2")


def ensure_installed() -> Path:
    """The side folder, filled on first use.

    Without dependencies: torch, timm and torchvision are the project's own, so that both sides run
    on the same ones.
    """
    if not (FOLDER / "legrad").is_dir():
        options = ["--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *REQUIREMENTS], check=True
        )
    return FOLDER


def import_reference(folder: Path) -> tuple[Any, Any]:
    """The reference's wrapper class and its open_clip; for a process of its own.

    It imports matplotlib and cv2 for nothing but a drawing helper that is not called here: empty
    modules in their place save two large installations.
    """
    sys.path.insert(0, str(folder))
    sys.modules |= {name: ModuleType(name) for name in ("cv2", "matplotlib", "matplotlib.pyplot")}
    import legrad  # type: ignore[import-not-found]
    import open_clip

    if not Path(open_clip.__file__).is_relative_to(folder):
        raise RuntimeError(f"open_clip came from {open_clip.__file__}, not from {folder}")
    return legrad.LeWrapper, open_clip
