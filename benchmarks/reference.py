"""The authors' LeGrad in a process that computes one explanation per call."""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from benchmarks.reference_package import ensure_installed
from benchmarks.reference_worker import READY


class ReferenceProcess:
    """Reference implementation in its own process, idle between calls."""

    def __init__(self, weights: Path, targets: int) -> None:
        self._arguments = [str(ensure_installed()), str(weights), str(targets)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reference_worker", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        self._expect(READY)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def explain(self, size: int) -> float:
        """Compute one explanation and return its seconds."""
        if self._process.stdin is None:
            raise RuntimeError("the reference process has no input")
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _expect(self, answer: str) -> None:
        found = self._read()
        if found != answer:
            raise RuntimeError(f"the reference process said {found!r}, not {answer!r}")

    def _read(self) -> str:
        if self._process.stdout is None:
            raise RuntimeError("the reference process has no output")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the reference process ended early")
        return line.strip()
