"""GIF files: the first frame, whatever stands before it."""

import time

import numpy as np
import pytest
from PIL import Image

from legrad_engine.errors import ImageDecodeError
from legrad_engine.images.decoding import decode
from tests.support.pictures import encoded, picture


def with_blocks(data: bytes, blocks: bytes) -> bytes:
    """Return the GIF with more blocks before its first frame."""
    start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    return data[:start] + blocks + data[start:]


@pytest.mark.parametrize("disposal", range(4))
def test_the_first_frame_is_the_same_however_it_is_to_be_cleared(disposal: int) -> None:
    frames = [picture(40, 30, seed).quantize(16) for seed in range(2)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(frames[0].convert("RGB")))


def test_transparency_before_the_first_frame_is_kept() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    data = encoded(image, "GIF", transparency=1, comment=b"made by a program " * 40)
    assert np.asarray(decode(data)).min() == 255


def test_some_thousand_blocks_of_metadata_are_skipped() -> None:
    data = with_blocks(encoded(picture(8, 8), "GIF"), b"!\xfe" + b"\x01a" * 5_000 + b"\0")
    assert decode(data).size == (8, 8)


@pytest.mark.parametrize(
    "blocks",
    [b"!\xfe" + b"\x01a" * 5_000_000 + b"\0", b"!\xfe\0" * 3_000_000, b"!\xf9\x01\0\0" * 2_000_000],
    ids=["one comment of single bytes", "empty comments", "controls"],
)
def test_a_file_of_nothing_but_blocks_is_refused_in_a_moment(blocks: bytes) -> None:
    data = with_blocks(encoded(picture(8, 8), "GIF"), blocks)
    began = time.thread_time()
    with pytest.raises(ImageDecodeError, match="more than 50000 blocks before the first frame"):
        decode(data)
    # Read to the end, they take longer.
    assert time.thread_time() - began < 3


def test_bytes_between_blocks_cost_nothing() -> None:
    data = with_blocks(encoded(picture(8, 8), "GIF"), bytes(10_000_000))
    began = time.thread_time()
    assert decode(data).size == (8, 8)
    assert time.thread_time() - began < 1
