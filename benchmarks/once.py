"""Folders that are made on first use, by whichever of several processes is the first."""

import fcntl
from collections.abc import Callable
from pathlib import Path


def make_once(folder: Path, content: str, make: Callable[[], None]) -> None:
    """Make a folder unless it is complete; processes that need it meanwhile wait.

    Args:
        folder: the folder; a file in it marks it as complete, and a lock lies beside it.
        content: what it is made from; made from something else, it is made again.
        make: makes the folder, or completes one that a process did not finish.
    """
    complete = folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.is_file() or complete.read_text() != content:
            make()
            complete.write_text(content)
