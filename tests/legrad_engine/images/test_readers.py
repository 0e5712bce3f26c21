"""Damaged metadata of JPEG, AVIF, TIFF and WebP does not cost the picture."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images.decoding import decode
from legrad_engine.images.readers import JpegFile
from tests.support.pictures import encoded, heic, picture
from tests.support.tiff_files import ASCII, LONG, SHORT, UNDEFINED, Tags, tiff_of

JPEG = encoded(picture(40, 30), "JPEG")


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.fixture(autouse=True)
def _silent() -> None:
    # Pillow warns of damaged metadata.
    warnings.simplefilter("ignore")


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF"),
        (0xE0, b"JFIF\0\1"),
        (0xE1, b""),
        (0xE1, b"Exif\0\0"),
        (0xE1, b"Exif\0\0junk"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xE2, b"ICC_PROFILE\0\1\2half"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        (0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\x02ab"),
        (0xEE, b"Adobe"),
        (0xEE, b"Adobe\0"),
        (0xFE, b""),
    ],
)
def test_short_segments_of_a_jpeg_are_comments(marker: int, content: bytes) -> None:
    odd = segment(marker, content)
    for data in (JPEG[:2] + odd + JPEG[2:], JPEG[:2] + odd * 3 + JPEG[2:]):
        np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(decode(JPEG)))


def test_whole_segments_are_still_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture(40, 30), "JPEG", exif=exif)
    with_short = turned[:2] + segment(0xE2, b"ICC_PROFILE\0") + turned[2:]
    assert decode(with_short).size == (30, 40)


@pytest.mark.parametrize("header", [b"junk", b"II*\0", b"\0\0\0\0"])
def test_damaged_exif_of_an_avif_is_ignored_and_its_orientation_is_not(header: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    data = encoded(picture(40, 30), "AVIF", exif=exif)
    start = data.rindex(b"MM\0*", 0, data.index(b"maker"))
    damaged = data[:start] + header + data[start + 4 :]
    np.testing.assert_array_equal(np.asarray(decode(damaged)), np.asarray(decode(data)))
    assert decode(damaged).size == (30, 40)


def test_damaged_exif_of_a_heic_is_ignored() -> None:
    data = heic(picture(64, 64), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert decode(data).size == (64, 64)


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"junk", b"Exif\0\0", b"\xff" * 60])
def test_damaged_exif_of_a_webp_is_ignored(exif: bytes) -> None:
    data = encoded(picture(40, 30), "WEBP", exif=exif, lossless=True)
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(picture(40, 30)))


@pytest.mark.parametrize(
    "tags",
    [
        {34665: (LONG, [99_999])},
        {34665: (LONG, [8])},
        {34665: (ASCII, b"x\0")},
        {34853: (LONG, [0xFFFFFFFF])},
        {34675: (UNDEFINED, b"no profile")},
        {34675: (LONG, [5])},
        {700: (UNDEFINED, b"\xff" * 20)},
        {700: (LONG, [3])},
        {700: (LONG, [3, 4])},
        {33432: (ASCII, b"\xff\xfe\0")},
        {282: (SHORT, [0])},
        {37500: (UNDEFINED, b"x" * 3_000_000)},
        {274: (SHORT, [99])},
        {274: (ASCII, b"x\0")},
        {330: (LONG, [4, 5])},
        {42113: (SHORT, [4])},
    ],
    ids=str,
)
def test_odd_tags_of_a_tiff_are_ignored(tags: Tags) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    found = np.asarray(decode(tiff_of(values, tags)))
    np.testing.assert_array_equal(found[..., 0], values)


def test_a_jpeg_is_decoded_smaller_only_if_that_is_enough() -> None:
    data = encoded(picture(80, 60), "JPEG")
    for least, expected in (
        ((80, 60), (80, 60)),
        ((41, 20), (80, 60)),
        ((40, 30), (40, 30)),
        ((1, 1), (10, 8)),
        ((100, 10), (80, 60)),
    ):
        file = JpegFile(io.BytesIO(data))
        file.reduce_to(least)
        file.load()
        assert file.size == expected


def test_a_lossless_jpeg_is_decoded_whole() -> None:
    """It has no coefficients of frequencies; the marker alone tells."""
    lossless = encoded(picture(80, 60), "JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1)
    file = JpegFile(io.BytesIO(lossless))
    file.reduce_to((10, 10))
    assert file.size == (80, 60)
