"""Recognition of formats, against every format that Pillow knows, and refusals that say why."""

import io
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from legrad_engine.errors import ImageDecodeError
from legrad_engine.images.decoding import decode
from legrad_engine.images.formats import HEAD_BYTES, recognise
from tests.support.pictures import encoded, heic, picture
from tests.support.tiff_files import SHORT, Tags, tiff, tiff_of

Image.init()
ACCEPTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_MODES = ("RGB", "RGBA", "L", "P", "1", "CMYK", "I", "F")
_EXTRA_HEADS = [
    b"GIF87a" + bytes(20), b"GIF88a" + bytes(20), b"GIF8", b"BM", b"\xff\xd8\xff\xe1", b"\xff\xd8",
    b"RIFF....WEBPVP8 ", b"RIFF....WEBPVP8L", b"RIFF....WEBPVP8X", b"RIFF....WEBPOTHR",
    b"RIFX....WEBPVP8 ", b"RIFF....WAVEfmt ",
    *(prefix + bytes(12) for prefix in TiffImagePlugin.PREFIXES),
    *(b"P" + bytes([each]) + b"\n1 1\n255\n" for each in range(256)),
]  # fmt: skip


def samples() -> dict[str, bytes]:
    """Return a file of every format that Pillow writes."""
    found = {}
    for name in Image.SAVE:
        for mode in _MODES:
            buffer = io.BytesIO()
            try:
                picture(16, 16).convert(mode).save(buffer, name)
            except Exception:
                continue
            found[name] = buffer.getvalue()
            break
    return found


SAMPLES = samples()


def heads() -> Iterator[bytes]:
    """Yield the starts of files of all formats, each also with one byte changed."""
    generator = np.random.default_rng(0)
    for data in (*SAMPLES.values(), *_EXTRA_HEADS):
        yield data[:HEAD_BYTES]
        for position in range(min(16, len(data))):
            changed = bytearray(data[:HEAD_BYTES])
            changed[position] ^= int(generator.integers(1, 256))
            yield bytes(changed)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_file_is_recognised_by_what_the_plugin_accepts(name: str) -> None:
    accept = Image.OPEN[name][1]
    assert accept is not None
    # Brands of one family of containers are told apart below.
    other = [head for head in heads() if head[4:8] != b"ftyp"]
    assert {head for head in other if recognise(head) == name} == {
        head for head in other if accept(head[:16]) is True
    }


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_of_all_formats_that_pillow_writes_the_accepted_ones_are_read(name: str) -> None:
    # MPO is JPEG with more pictures behind it.
    if name in (*ACCEPTED, "AVIF", "MPO"):
        assert decode(SAMPLES[name]).size == (16, 16)
    else:
        with pytest.raises(ImageDecodeError, match="not an image in an accepted format"):
            decode(SAMPLES[name])


def test_every_accepted_format_has_a_sample() -> None:
    assert {*ACCEPTED, "AVIF", "MPO", "JPEG2000", "ICO"} <= set(SAMPLES)


def with_brands(data: bytes, major: bytes, *compatible: bytes) -> bytes:
    """Return an AVIF or HEIC file with other brands, in boxes of the same size."""
    size = int.from_bytes(data[:4], "big")
    count = size // 4 - 4
    brands = [*compatible, *[b"mif1"] * count][:count]
    return data[:8] + major + bytes(4) + b"".join(brands) + data[size:]


@pytest.mark.parametrize(
    ("major", "compatible"),
    [
        (b"avif", [b"mif1", b"miaf"]),
        (b"mif1", [b"avif", b"miaf"]),
        (b"mif1", [b"miaf", b"avif"]),
        (b"miaf", [b"mif1", b"avif"]),
    ],
)
def test_avif_is_told_by_any_of_its_brands(major: bytes, compatible: list[bytes]) -> None:
    data = with_brands(SAMPLES["AVIF"], major, *compatible)
    assert recognise(data[:HEAD_BYTES]) == "AVIF"
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(decode(SAMPLES["AVIF"])))


@pytest.mark.parametrize("major", [b"avis", b"msf1"])
def test_an_avif_sequence_shows_its_first_picture(major: bytes) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime")]
    data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    assert data[8:12] == b"avis"
    found = decode(data[:8] + major + data[12:])
    assert np.asarray(found).mean((0, 1)) == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.parametrize("major", [b"heic", b"heix", b"mif1", b"msf1", b"heim", b"hevc", b"miaf"])
def test_heic_is_told_by_any_of_its_brands(major: bytes) -> None:
    plain = heic(picture(16, 16))
    data = with_brands(plain, major, b"heic")
    assert recognise(data[:HEAD_BYTES]) == "HEIF"
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(decode(plain)))


@pytest.mark.parametrize("major", [b"isom", b"mp42", b"qt  ", b"jxl "])
def test_other_containers_are_not_pictures(major: bytes) -> None:
    head = struct.pack(">I", 24) + b"ftyp" + major + bytes(4) + b"isomiso2"
    assert recognise(head) is None


def float64() -> bytes:
    return tiff_of(np.zeros((2, 2)))


def unknown_compression() -> bytes:
    tags: Tags = {258: (SHORT, [8]), 262: (SHORT, [1]), 259: (SHORT, [50_002])}
    return tiff(2, 2, bytes(4), tags)


def jpeg_in_bmp() -> bytes:
    data = bytearray(encoded(picture(), "BMP"))
    data[30] = 4
    return bytes(data)


def jpeg_of_12_bits() -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [float64(), unknown_compression(), jpeg_in_bmp(), jpeg_of_12_bits()],
    ids=["TIFF of float64", "TIFF with unknown compression", "JPEG in BMP", "12-bit JPEG"],
)
def test_a_whole_file_of_an_unsupported_kind_is_not_called_damaged(data: bytes) -> None:
    with pytest.raises(ImageDecodeError, match=r"not supported.*save it as 8-bit") as caught:
        decode(data)
    assert "damaged" not in str(caught.value)


_RAW_TIFFS = list(TiffImagePlugin.OPEN_INFO)
# Pillow lists them, but has no reader of their bytes.
_WITHOUT_READER = {"L;IR", "P;1R", "P;2R", "P;4R"}


@pytest.mark.parametrize("key", _RAW_TIFFS, ids=str)
def test_every_kind_of_tiff_that_pillow_lists_is_read(
    key: tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]],
) -> None:
    prefix, photometric, sample_format, fill_order, bits, extra = key
    width, height = 24, 4
    generator = np.random.default_rng(0)
    pixels = generator.bytes(height * ((width * sum(bits) + 7) // 8))
    tags: dict[int, tuple[int, bytes | list[int]]] = {
        258: (SHORT, list(bits)),
        262: (SHORT, [photometric]),
        266: (SHORT, [fill_order]),
        277: (SHORT, [len(bits)]),
        339: (SHORT, list(sample_format) * len(bits)),
    }
    if extra:
        tags[338] = (SHORT, list(extra))
    if photometric == 3:
        tags[320] = (SHORT, [int(each) for each in generator.integers(0, 65536, 3 * 2 ** bits[0])])
    if photometric == 6:
        tags[530] = (SHORT, [1, 1])
    data = tiff(width, height, pixels, tags, "<" if prefix == b"II" else ">")
    if TiffImagePlugin.OPEN_INFO[key][1] in _WITHOUT_READER:
        with pytest.raises(ImageDecodeError, match="not supported"):
            decode(data)
    else:
        assert decode(data).size == (width, height)
