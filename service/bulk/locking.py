"""Locks on the folders that runs write into, and files of lines that one run at a time writes."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def only_writer(folder: Path, error: type[Exception]) -> Iterator[None]:
    """Keep other runs from writing into a folder until the context ends, or the process.

    Args:
        folder: the folder, which exists.
        error: the type of error to raise if another run is writing into it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise error(
                f"Another run writes into {folder}: wait for its end, or set another folder with "
                "-o."
            ) from busy
        yield
    finally:
        os.close(descriptor)


class LinesWriter:
    """Writer of a file of lines, as the only run in its folder from :meth:`begin` on."""

    def __init__(self, path: Path, error: type[Exception]) -> None:
        """Prepare to write; nothing is opened yet.

        Args:
            path: the file.
            error: the type of error to raise if another run is writing into its folder.
        """
        self._path = path
        self._error = error
        self._file: TextIO | None = None
        self._locked = ExitStack()

    def begin(self, current: Callable[[], Iterable[str]]) -> None:
        """Lock the folder and write the file anew; without effect after the first call.

        Args:
            current: called once the folder is locked, because another run may have written before;
                returns the lines to keep.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._locked.enter_context(only_writer(self._path.parent, self._error))
            self._replace(current())
            self._file = self._path.open("a", encoding="utf-8")

    def append(self, lines: Iterable[str]) -> None:
        """Add lines at once.

        Raises:
            RuntimeError: :meth:`begin` was not called.
            OSError: the file cannot be written.
        """
        if self._file is None:
            raise RuntimeError("The file is not open: call begin first.")
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()

    def close(self, last: Callable[[], Iterable[str]] | None = None) -> None:
        """Close the file if it was begun, and unlock the folder.

        Args:
            last: returns the lines to keep; None for all.
        """
        with self._locked:
            if self._file is not None:
                self._file.close()
                if last is not None:
                    self._replace(last())

    def _replace(self, lines: Iterable[str]) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.replace(self._path)
