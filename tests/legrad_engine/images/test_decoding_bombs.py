"""Decompression bombs of every format: refused before pixels are allocated or time is spent."""

import multiprocessing
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError
from legrad_engine.images.decoding import decode
from tests.support.lying_pictures import LYING
from tests.support.picture_bombs import CODED_LARGER, HARMLESS, MOST, SLOW, TOO_LARGE

# What the largest accepted picture may need while it is decoded, and no more than a bomb may.
ALLOWANCE = 100_000_000


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak"
)


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def measure(data: bytes, answers: Connection) -> None:
    warnings.simplefilter("ignore")
    # Sets the peak to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    outcome: object
    try:
        outcome = decode(data, max_pixels=MOST).size
    except Exception as error:
        outcome = type(error)
    answers.send((outcome, peak_bytes() - before))


def decoded_apart(data: bytes) -> tuple[object, int]:
    """The outcome, and the memory that it took at most, of decoding in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=measure, args=(data, there))
    process.start()
    assert here.poll(60)
    outcome, grown = here.recv()
    process.join()
    return outcome, grown


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(name: str) -> None:
    outcome, grown = decoded_apart(TOO_LARGE[name])
    assert outcome is ImageTooLargeError
    assert grown < ALLOWANCE / 5


@pytest.mark.parametrize("name", CODED_LARGER)
def test_a_coded_picture_that_is_larger_than_the_file_says_is_refused_by_its_header(
    name: str,
) -> None:
    outcome, grown = decoded_apart(CODED_LARGER[name])
    assert outcome is ImageTooLargeError
    assert grown < ALLOWANCE / 5


@pytest.mark.parametrize("name", LYING)
def test_a_picture_that_states_two_sizes_takes_no_more_than_the_limit_allows(name: str) -> None:
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
def test_what_looks_like_a_bomb_but_is_none_is_read(name: str) -> None:
    outcome, grown = decoded_apart(HARMLESS[name])
    assert outcome in {(8, 8), (64, 64), (2000, 2000)}
    assert grown < ALLOWANCE
