"""Decompression bombs of every format: refused before pixels are allocated or time is spent."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError
from legrad_engine.images.decoding import decode
from tests.support import decoding_apart
from tests.support.lying_pictures import LYING
from tests.support.picture_bombs import CODED_LARGER, HARMLESS, MOST, SLOW, TOO_LARGE

# What the largest accepted picture may need while it is decoded, and no more than a bomb may.
ALLOWANCE = 100_000_000

Decoded = Callable[[bytes], tuple[object, int]]

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak"
)


@pytest.fixture(scope="module")
def decoded_apart() -> Iterator[Decoded]:
    """The outcome, and the memory that it took at most, of decoding in a process of its own."""
    # Forked from a new one: in a fork of this one, locks of its threads would stay held, and freed
    # memory that it still has would not count.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as parent:
        yield lambda data: parent.submit(decoding_apart.decoded_apart, data, MOST).result()


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(
    name: str, decoded_apart: Decoded
) -> None:
    outcome, grown = decoded_apart(TOO_LARGE[name])
    assert outcome is ImageTooLargeError
    assert grown < ALLOWANCE / 5


@pytest.mark.parametrize("name", CODED_LARGER)
def test_a_coded_picture_that_is_larger_than_the_file_says_is_refused_by_its_header(
    name: str, decoded_apart: Decoded
) -> None:
    outcome, grown = decoded_apart(CODED_LARGER[name])
    assert outcome is ImageTooLargeError
    assert grown < ALLOWANCE / 5


@pytest.mark.parametrize("name", LYING)
def test_a_picture_that_states_two_sizes_takes_no_more_than_the_limit_allows(
    name: str, decoded_apart: Decoded
) -> None:
    outcome, grown = decoded_apart(LYING[name])
    if isinstance(outcome, tuple):
        width, height = outcome
        assert width * height <= MOST
        # The bytes for each pixel that docs/settings.md promises.
        assert grown < ALLOWANCE / 5 + 24 * width * height
    else:
        assert outcome in (ImageTooLargeError, ImageDecodeError)
        assert grown < ALLOWANCE / 5


@pytest.mark.parametrize("name", SLOW)
def test_a_picture_that_is_decoded_for_long_is_refused_unread(name: str) -> None:
    began = time.thread_time()
    with pytest.raises(ImageDecodeError, match=r"more than \d+ |within its first"):
        decode(SLOW[name], max_pixels=MOST)
    # Of this thread: whatever else the machine does. Decoded, most take many times as long.
    assert time.thread_time() - began < 3


@pytest.mark.parametrize("name", HARMLESS)
def test_what_looks_like_a_bomb_but_is_none_is_read(name: str, decoded_apart: Decoded) -> None:
    outcome, grown = decoded_apart(HARMLESS[name])
    assert outcome in {(8, 8), (64, 64), (2000, 2000)}
    assert grown < ALLOWANCE
