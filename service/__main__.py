"""The program ``legrad``: what has to be said to native libraries before they are loaded."""

import ctypes
import os
import platform

# GNU's OpenMP, which torch computes with on Linux, reads this once. Between two operations its
# threads wait in a loop; by default for milliseconds, in which pictures could be decoded. So many
# turns bridge the gaps within a forward pass, and no more.
_OPENMP_TURNS = "8000"

# GNU's allocator gives each new thread a heap of its own, up to eight for each core, and memory
# freed in one is of no use to another: under mixed traffic they go on growing. In fewer than these,
# the model's large tensors lie between small things that stay, and leave holes.
_HEAPS = 4
_HEAPS_PARAMETER = -8  # M_ARENA_MAX of malloc.h
_HEAPS_TUNABLE = "glibc.malloc.arena_max="


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("GOMP_SPINCOUNT", _OPENMP_TURNS)
    _limit_heaps()
    from service.cli import app

    app()


def _limit_heaps() -> None:
    """Limits the allocator's heaps, where it is GNU's and nobody has set them."""
    chosen = os.environ.get("MALLOC_ARENA_MAX") or (
        _HEAPS_TUNABLE in os.environ.get("GLIBC_TUNABLES", "")
    )
    if platform.libc_ver()[0] == "glibc" and not chosen:
        ctypes.CDLL(None).mallopt(_HEAPS_PARAMETER, _HEAPS)


if __name__ == "__main__":
    main()
