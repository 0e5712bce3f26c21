"""KServe's and Triton's own clients, in an environment of their own because of their pins."""

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

_FOLDER = ROOT / ".clients"
_LOCK = _FOLDER.with_suffix(".lock")
_REQUIREMENTS = ("kserve==0.21.0", "tritonclient[http]==2.73.0")


def client_python() -> Path:
    """Return the interpreter of that environment, which is made on first use."""
    python = _FOLDER / "bin" / "python"
    complete = _FOLDER / "complete"
    # Tests of several files need it, and run side by side.
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.is_file():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(_FOLDER)], check=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "--quiet", "--no-compile", *_REQUIREMENTS],
                check=True,
            )
            complete.touch()
    return python
