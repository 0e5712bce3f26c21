"""Python environments beside that of the tests, for programs whose pins do not fit into it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.once import make_once
from tests.support.paths import ROOT

# One folder for all of them, which git ignores.
_FOLDER = ROOT / ".clients"
# Versions of all packages, as `pip freeze` lists them: pip finds them in half the time.
_CONSTRAINTS = Path(__file__).with_name("constraints")


def python_with(name: str, requirements: Sequence[str]) -> Path:
    """Return the interpreter of an environment, which is made on first use.

    Args:
        name: name of the environment, and of its file of constraints.
        requirements: the packages in it, with pins.
    """
    folder, constraints = _FOLDER / name, _CONSTRAINTS / f"{name}.txt"
    python = folder / "bin" / "python"

    def install() -> None:
        make = ["-m", "venv", "--clear", "--without-pip", str(folder)]
        subprocess.run([sys.executable, *make], check=True)
        fill = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        subprocess.run(
            [sys.executable, *fill, "--constraint", str(constraints), *requirements], check=True
        )

    # Tests of several files need it, and run side by side.
    make_once(folder, "\n".join([*requirements, constraints.read_text()]), install)
    return python
