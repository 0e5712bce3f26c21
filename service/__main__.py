"""Entry point of the program ``legrad``; configures native libraries before they are loaded."""

import ctypes
import os
import platform

# GNU OpenMP, which torch uses on Linux, reads this once. Between two operations its threads spin,
# by default for milliseconds in which the cores could decode pictures. This number of turns only
# bridges the gaps within a forward pass.
_OPENMP_TURNS = "8000"

# GNU's allocator gives each new thread a heap of its own, up to eight for each core. Memory that is
# freed in one heap cannot be used by another, so that under mixed traffic the heaps keep growing.
# With fewer heaps than this, small long-lived objects between large tensors fragment the memory.
_HEAPS = 4
_HEAPS_PARAMETER = -8  # M_ARENA_MAX of malloc.h
_HEAPS_TUNABLE = "glibc.malloc.arena_max="


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("GOMP_SPINCOUNT", _OPENMP_TURNS)
    _limit_heaps()
    from service.cli import app

    app()


def _limit_heaps() -> None:
    """Limit the allocator's heaps if it is GNU's and the operator has set no limit."""
    chosen = os.environ.get("MALLOC_ARENA_MAX") or (
        _HEAPS_TUNABLE in os.environ.get("GLIBC_TUNABLES", "")
    )
    if platform.libc_ver()[0] == "glibc" and not chosen:
        ctypes.CDLL(None).mallopt(_HEAPS_PARAMETER, _HEAPS)


if __name__ == "__main__":
    main()
