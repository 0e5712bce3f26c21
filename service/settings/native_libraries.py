"""Environment variables for native libraries, which read them before Python code runs or at load.

Imports nothing but the standard library: the entry point reads them before it loads any library.
"""

from typing import NamedTuple

# GNU OpenMP, which torch uses on Linux, reads this once. Between two operations its threads spin,
# by default for milliseconds in which the cores could decode pictures. This number of turns only
# bridges the gaps within a forward pass.
OPENMP_TURNS = "8000"


class AllocatorParameter(NamedTuple):
    """A parameter of GNU's allocator: mallopt(3).

    Attributes:
        number: its number in malloc.h.
        variable: the environment variable that sets it.
        tunable: its name in ``GLIBC_TUNABLES``.
        value: the value for ``legrad``.
    """

    number: int
    variable: str
    tunable: str
    value: int


# Large blocks are returned to the kernel when they are freed, and each page of the next one faults
# anew: a third of the time of decoding a photograph, a twentieth of a forward pass.
KEPT_MEMORY = (
    AllocatorParameter(-3, "MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold", 32 * 2**20),
    AllocatorParameter(-1, "MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold", 64 * 2**20),
)

ALLOCATOR = (
    # Each new thread gets a heap of its own, up to eight for each core. Memory that is freed in one
    # heap cannot be used by another, so that under mixed traffic the heaps keep growing. With fewer
    # heaps than this, small long-lived objects between large tensors fragment the memory.
    AllocatorParameter(-8, "MALLOC_ARENA_MAX", "glibc.malloc.arena_max", 4),
    *KEPT_MEMORY,
)

NATIVE_VARIABLES = {
    "GOMP_SPINCOUNT": OPENMP_TURNS,
    **{each.variable: str(each.value) for each in ALLOCATOR},
}
"""For processes that another program starts; ``legrad`` sets the same limits by itself."""
