"""Python environments beside that of the tests, for programs whose pins do not fit into it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.once import make_once
from tests.support.paths import ROOT

# One folder for all of them, which git ignores.
_FOLDER = ROOT / ".clients"


def python_with(name: str, requirements: Sequence[str]) -> Path:
    """Return the interpreter of an environment, which is made on first use.

    Args:
        name: name of the environment.
        requirements: the packages in it, with pins.
    """
    folder = _FOLDER / name
    python = folder / "bin" / "python"

    def install() -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--no-compile", *requirements],
            check=True,
        )

    # Tests of several files need it, and run side by side.
    make_once(folder, "\n".join(requirements), install)
    return python
