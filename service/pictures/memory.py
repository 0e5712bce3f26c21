"""The limit on the memory of one job in a picture process."""

import os
import resource
import sys
from pathlib import Path

_STATISTICS = Path("/proc/self/statm")


class MemoryLimit:
    """Limits the address space of this process to its own, its canvases' and that of one job.

    Only Linux limits address space; elsewhere nothing is limited.
    """

    def __init__(self) -> None:
        """Measure the process before its first job."""
        self._own = _address_space() if sys.platform == "linux" else None

    def allow(self, nbytes: int) -> None:
        """Let the process have this many bytes beyond those it began with.

        Args:
            nbytes: for the canvases that it keeps and for the next job.
        """
        if self._own is None:
            return
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = self._own + nbytes
        # An operator's own limit, by `ulimit -v`, stays.
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))

    def lift(self) -> None:
        """Let the process have any memory again."""
        if self._own is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _address_space() -> int:
    pages = int(_STATISTICS.read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
