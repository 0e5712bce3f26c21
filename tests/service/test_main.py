"""``legrad`` configures OpenMP and the allocator before it loads native libraries."""

import os
import subprocess
import sys

import pytest

VARIABLES = {
    "GOMP_SPINCOUNT",
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
}

# Replaces the command line: sixteen threads that hold memory at the same time.
PROBE = """
import ctypes, os, sys, tempfile, threading, types

def app():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
    together = threading.Barrier(17)

    def hold():
        libc.malloc(1000)
        together.wait()
        together.wait()

    for _ in range(16):
        threading.Thread(target=hold).start()
    together.wait()
    with tempfile.NamedTemporaryFile("r") as found:
        stream = ctypes.c_void_p(libc.fopen(found.name.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        print(os.environ["GOMP_SPINCOUNT"], found.read().count("<heap "))
    together.wait()

sys.modules["service.cli"] = types.SimpleNamespace(app=app)
from service.__main__ import main
main()
"""


# Replaces the command line: the page faults of blocks that are freed and allocated again.
FREEING = """
import ctypes, resource, sys, types

PR_SET_THP_DISABLE = 41  # of linux/prctl.h

def app():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    # A huge page would be one fault in place of 512.
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    faults = []
    for _ in range(10):
        blocks = [ctypes.c_void_p(libc.malloc(4 << 20)) for _ in range(3)]
        for block in blocks:
            ctypes.memset(block, 1, 4 << 20)
        for block in blocks:
            libc.free(block)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    print(faults[-1] - faults[1])

sys.modules["service.cli"] = types.SimpleNamespace(app=app)
from service.__main__ import main
main()
"""

# Replaces the command line: the number of objects that the end of the process searches, or 0.
ENDING = """
import atexit, gc, sys, types

atexit.register(lambda: print(len(gc.get_objects()) if gc.get_freeze_count() == 0 else 0))
sys.modules["service.cli"] = types.SimpleNamespace(app=sys.exit)
from service.__main__ import main
main()
"""


def printed(probe: str, **environment: str) -> list[int]:
    """Run a probe; return the numbers that it prints."""
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return list(map(int, done.stdout.split()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of GNU's C library")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [8000, 4]),
        ({"GOMP_SPINCOUNT": "17"}, [17, 4]),
        ({"MALLOC_ARENA_MAX": "5"}, [8000, 5]),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}, [8000, 3]),
        ({"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}, [8000, 4]),
    ],
)
def test_threads_wait_briefly_and_share_four_heaps_unless_told_otherwise(
    given: dict[str, str], expected: list[int]
) -> None:
    assert printed(PROBE, **given) == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of GNU's C library")
@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "100000", "MALLOC_MMAP_THRESHOLD_": "100000"}, False)],
)
def test_freed_memory_is_kept_for_the_next_picture_unless_told_otherwise(
    given: dict[str, str], kept: bool
) -> None:
    (faults,) = printed(FREEING, **given)
    assert (faults < 1000) == kept


def test_the_end_of_the_process_is_not_searched_for_garbage() -> None:
    assert printed(ENDING) == [0]
