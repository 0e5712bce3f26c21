"""Entry point of the program ``legrad``; configures native libraries before they are loaded."""

import ctypes
import gc
import os
import platform

from service.settings.native_libraries import ALLOCATOR, OPENMP_TURNS


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_TURNS)
    _tune_allocator()
    from service.cli import app

    try:
        app()
    finally:
        # At its end Python would search all objects for garbage, most of a second once torch is
        # imported, for memory that the end of the process frees anyway.
        gc.freeze()


def _tune_allocator() -> None:
    """Set the parameters of GNU's allocator that the operator has not set."""
    if platform.libc_ver()[0] != "glibc":
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for each in ALLOCATOR:
        if not os.environ.get(each.variable) and f"{each.tunable}=" not in tunables:
            ctypes.CDLL(None).mallopt(each.number, each.value)


if __name__ == "__main__":
    main()
