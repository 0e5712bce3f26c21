"""A decoder that fails has too little memory, or a damaged file."""

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from legrad_engine.images.memory import enough_to_decode

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")


def fail_to_decode(limit: int, nbytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    address_space = pages * resource.getpagesize() + limit
    resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))
    with enough_to_decode(nbytes):
        raise OSError("broken data stream")


def fail_in_a_new_process(limit: int, nbytes: int) -> None:
    # An older process may hold any amount of freed memory, on top of the limit.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        processes.submit(fail_to_decode, limit, nbytes).result()


def test_an_error_is_the_file_s_fault_where_there_is_memory() -> None:
    with pytest.raises(OSError, match="broken data stream"):
        fail_in_a_new_process(600_000_000, 100_000_000)


def test_a_failed_allocation_raises_memory_error() -> None:
    with pytest.raises(MemoryError, match="1000000000 bytes"):
        fail_in_a_new_process(600_000_000, 1_000_000_000)


@pytest.mark.skipif(
    OVERCOMMIT.exists() and OVERCOMMIT.read_text().strip() == "2",
    reason="the kernel gives no more memory than the machine has, used or not",
)
def test_a_size_that_no_file_can_have_is_not_asked_for() -> None:
    with pytest.raises(OSError, match="broken data stream"):
        fail_in_a_new_process(2**34, 2**64)
