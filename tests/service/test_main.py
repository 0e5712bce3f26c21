"""``legrad`` configures OpenMP and the allocator before it loads native libraries."""

import os
import subprocess
import sys

import pytest

VARIABLES = {"GOMP_SPINCOUNT", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}

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


def spins_and_heaps(**environment: str) -> tuple[int, int]:
    """Return the spin count of OpenMP, and the number of heaps that sixteen threads share."""
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    spins, heaps = map(int, done.stdout.split())
    return spins, heaps


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of GNU's C library")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (8000, 4)),
        ({"GOMP_SPINCOUNT": "17"}, (17, 4)),
        ({"MALLOC_ARENA_MAX": "5"}, (8000, 5)),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}, (8000, 3)),
        ({"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}, (8000, 4)),
    ],
)
def test_threads_wait_briefly_and_share_four_heaps_unless_told_otherwise(
    given: dict[str, str], expected: tuple[int, int]
) -> None:
    assert spins_and_heaps(**given) == expected
