"""Processor time of a server by what spends it, and the share of time that its lock is held.

py-spy reads both in the memory of the process: before 3.14, Python gives no names of threads to the
operating system, and it never says who holds the interpreter's lock.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import psutil

Spender = Literal["event loop", "pictures", "others", "model"]

_SPENDERS: dict[str, Spender] = {
    "MainThread": "event loop",
    "picture-": "pictures",
    "batcher-": "model",
}
_SAMPLES_PER_SECOND = 100

_Answer = TypeVar("_Answer")


class ProcessorTime:
    """Reads the processor seconds of a server: of its threads, and of its child processes."""

    def __init__(self, pid: int) -> None:
        """Learn the names of the threads that run now; threads that start later are others."""
        self._server = psutil.Process(pid)
        found = json.loads(_py_spy("dump", pid, "--json"))
        self._spenders = {
            thread["os_thread_id"]: _spender(thread["thread_name"]) for thread in found
        }

    def read(self) -> dict[Spender, float]:
        """Return the seconds spent until now. Child processes work on pictures."""
        seconds: defaultdict[Spender, float] = defaultdict(float)
        for thread in self._server.threads():
            spent = thread.user_time + thread.system_time
            seconds[self._spenders.get(thread.id, "others")] += spent
        for child in self._server.children(recursive=True):
            times = child.cpu_times()
            seconds["pictures"] += times.user + times.system
        return seconds


def lock_share(pid: int, seconds: int, meanwhile: Callable[[], _Answer]) -> tuple[float, _Answer]:
    """Measure the share of time in which a process holds its interpreter's lock.

    py-spy stops the process for each sample, which slows it by a few percent.

    Args:
        pid: process id.
        seconds: duration of the sampling.
        meanwhile: work for the process, longer than the sampling.

    Returns:
        The share, 0 to 1, and the result of ``meanwhile``.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "stacks"
        options = ("--gil", "--format", "raw", "--output", str(output))
        timing = ("--rate", str(_SAMPLES_PER_SECOND), "--duration", str(seconds))
        command = _py_spy_command("record", pid, *options, *timing)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sampling:
            answer = meanwhile()
        if sampling.returncode:
            raise RuntimeError(f"py-spy ended with status {sampling.returncode}")
        # Each line is a stack and the number of samples in which it had the lock.
        held = sum(int(line.rpartition(" ")[2]) for line in output.read_text().splitlines())
    return held / (seconds * _SAMPLES_PER_SECOND), answer


def _py_spy(action: str, pid: int, *options: str) -> str:
    command = _py_spy_command(action, pid, *options)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _py_spy_command(action: str, pid: int, *options: str) -> list[str]:
    program = str(Path(sys.executable).with_name("py-spy"))
    return [program, action, "--pid", str(pid), *options]


def _spender(thread: str) -> Spender:
    known = (spender for prefix, spender in _SPENDERS.items() if thread.startswith(prefix))
    return next(known, "others")
