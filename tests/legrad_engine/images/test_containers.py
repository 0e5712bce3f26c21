"""Sizes in AVIF and HEIC files: of coded pictures, of cells, of sequences."""

import contextlib
import time

import pytest
from PIL import Image

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError
from legrad_engine.images.containers import metadata_ranges, parts_of
from legrad_engine.images.decoding import decode
from tests.support.picture_files import box, grid_of
from tests.support.pictures import encoded, heic, picture


def single(kind: str, image: Image.Image) -> bytes:
    return heic(image, quality=50) if kind == "HEIC" else encoded(image, kind, speed=10)


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_the_size_of_the_coded_picture_counts_whatever_the_file_says(kind: str) -> None:
    data = bytearray(single(kind, picture(320, 256)))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = bytes((0, 0, 0, 64, 0, 0, 0, 64))
    assert parts_of(bytes(data)).largest == (320, 256)
    with pytest.raises(ImageTooLargeError, match="parts of 320 x 256 pixels"):
        decode(bytes(data), max_pixels=320 * 256 - 1)


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_cells_of_a_grid_count_together(kind: str) -> None:
    data = grid_of(single(kind, picture(64, 64)), 4, shown=(256, 64))
    assert decode(data, max_pixels=256 * 64).size == (256, 64)
    with pytest.raises(ImageTooLargeError, match=r"parts of 256 x 64 pixels"):
        decode(data, max_pixels=256 * 64 - 1)
    hidden = grid_of(single(kind, picture(64, 64)), 200, shown=(64, 64))
    with pytest.raises(ImageTooLargeError, match=rf"cells of {200 * 64 * 64} pixels"):
        decode(hidden, max_pixels=100 * 64 * 64)


def test_every_picture_of_a_sequence_file_is_read_from_its_headers() -> None:
    frames = [picture(96, 64, seed) for seed in range(3)]
    data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    assert parts_of(data).largest == (96, 64)
    with pytest.raises(ImageTooLargeError, match="96 x 64 pixels"):
        decode(data, max_pixels=96 * 64 - 1)


@pytest.mark.parametrize("repeated", [box(b"free"), box(b"meta", bytes(4))])
def test_a_file_of_nothing_but_boxes_is_refused_in_a_moment(repeated: bytes) -> None:
    data = encoded(picture(), "AVIF") + repeated * (20_000_000 // len(repeated))
    began = time.process_time()
    with pytest.raises(ImageDecodeError, match="too many boxes"):
        decode(data)
    assert time.process_time() - began < 10


def test_metadata_is_found_behind_other_boxes() -> None:
    data = box(b"ftyp", b"avif") + box(b"free", bytes(30)) + box(b"meta", bytes(9))
    assert [data[start:stop] for start, stop in metadata_ranges(data)] == [bytes(9)]


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_a_file_cut_anywhere_is_never_read_beyond_its_end(kind: str) -> None:
    data = grid_of(single(kind, picture(64, 64)), 2, shown=(128, 64))
    for length in range(0, len(data), 7):
        with contextlib.suppress(ValueError):
            parts_of(data[:length])
