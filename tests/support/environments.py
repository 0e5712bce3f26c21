"""Python environments beside that of the tests, for programs whose pins do not fit into it."""

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
    complete = folder / "complete"
    listed = "\n".join(requirements)
    _FOLDER.mkdir(exist_ok=True)
    # Tests of several files need it, and run side by side.
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.is_file() or complete.read_text() != listed:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "--quiet", "--no-compile", *requirements],
                check=True,
            )
            complete.write_text(listed)
    return python
