"""Imports of a program, without the work of the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_after() -> Iterator[None]:
    """Pause the collector for the context, and let it never search what was made until its end.

    The modules of torch and open_clip hold half a million objects that live as long as the process.
    To search them again and again, while they are made and when the process ends, takes a quarter
    of the time of a short program. In a forked process it also copies memory that is shared.

    For programs only: garbage of a caller with cycles would never be freed either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
