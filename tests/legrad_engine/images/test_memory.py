"""A decoder that fails has too little memory, or a damaged file."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from legrad_engine.images.memory import enough_to_decode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")


@contextmanager
def limited(nbytes: int) -> Iterator[None]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + nbytes, resource.RLIM_INFINITY)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fail_to_decode(nbytes: int) -> None:
    with enough_to_decode(nbytes):
        raise OSError("broken data stream")


def test_an_error_is_the_file_s_fault_where_there_is_memory() -> None:
    with limited(600_000_000), pytest.raises(OSError, match="broken data stream"):
        fail_to_decode(100_000_000)


def test_an_error_is_a_lack_of_memory_where_there_is_none() -> None:
    with limited(600_000_000), pytest.raises(MemoryError, match="1000000000 bytes"):
        fail_to_decode(1_000_000_000)


def test_a_size_that_no_file_can_have_is_not_asked_for() -> None:
    with limited(2**34), pytest.raises(OSError, match="broken data stream"):
        fail_to_decode(2**64)
