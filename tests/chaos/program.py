"""``legrad`` whose workers die, hang or run out of memory while a file asks for it."""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.faulty_server import run_with_failures

DIE = "die"
HANG = "hang"
NO_MEMORY = "no-memory"

_SWITCHES = "CHAOS_SWITCHES"
_LOG = "CHAOS_LOG"


def program(switches: Path, log: Path | None) -> Callable[[], None]:
    """Return the program for a forked process.

    Args:
        switches: folder in which a file with the name of a fault turns it on. The worker that dies
            removes the file.
        log: file that the log goes to; None for standard error.
    """
    return partial(_run, switches, log)


def variables(switches: Path, log: Path | None) -> dict[str, str]:
    """Return the environment variables that tell the program the same if it is run as a module."""
    return {_SWITCHES: str(switches)} | ({} if log is None else {_LOG: str(log)})


def _run(switches: Path, log: Path | None) -> None:
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    run_with_failures(partial(_fail, switches))


def _fail(switches: Path, _items: Sequence[Any]) -> None:
    try:
        (switches / DIE).unlink()
    except FileNotFoundError:
        pass
    else:
        raise SystemExit("as if the device were lost")
    if (switches / NO_MEMORY).exists():
        raise MemoryError
    pause = threading.Event()
    while (switches / HANG).exists():
        pause.wait(0.01)


if __name__ == "__main__":
    _run(Path(os.environ[_SWITCHES]), Path(os.environ[_LOG]) if _LOG in os.environ else None)
