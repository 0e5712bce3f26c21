"""Imports at the start of a program, without work of the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_after() -> Iterator[None]:
    """Pause the collector in the context, then freeze all objects so that it never scans them.

    The modules of torch and open_clip hold half a million objects that live as long as the process.
    Scanning them again and again, during the imports and when the process ends, takes a quarter of
    the time of a short program. In a forked process it also copies shared memory.

    Only for the start of a program: cyclic garbage that exists by then is never freed.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
