"""A file system of fsspec that logs reads, and whose files can wait or kill their readers.

It is a package of its own, which workers of a cluster find on their path: see
``tests/support/ray_jobs.py``. ``counted:///FOLDER/NAME`` is the local file; a read of it adds
its name to the hidden file ``.reads`` of its folder. Names with ``killer`` kill the process that
reads them, and names with ``gated`` wait, until their folder has the hidden file ``.open``.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

_SCHEME = "counted://"


class CountedFileSystem(LocalFileSystem):  # type: ignore[misc] # fsspec is not checked
    """The local file system, with a record of reads."""

    protocol = "counted"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix(_SCHEME)))

    def unstrip_protocol(self, name: str) -> str:
        """Return the URI of a path."""
        return f"{_SCHEME}{self._strip_protocol(name)}"

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> Any:
        """Read a file, and note that it is read."""
        file = Path(self._strip_protocol(path))
        with (file.parent / ".reads").open("a") as log:
            log.write(f"{file.name}\n")
        opened = file.with_name(".open")
        if "killer" in file.name and not opened.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        while "gated" in file.name and not opened.exists():
            time.sleep(0.05)
        return super().cat_file(path, start=start, end=end)
