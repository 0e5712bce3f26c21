"""PNG metadata: large, damaged and hostile chunks cost neither the picture nor the memory."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from legrad_engine.errors import ImageDecodeError
from legrad_engine.images.decoding import decode
from tests.support.pictures import encoded, picture

PLAIN = encoded(picture(40, 30))
UPRIGHT = np.asarray(decode(PLAIN))
LONG = bytes(range(1, 256)) * 8_000
ORIENTATION_6 = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
XMP = b'<x tiff:Orientation="6"/>'


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(*chunks: bytes, at_end: bool = False, base: bytes = PLAIN) -> bytes:
    position = len(base) - 12 if at_end else 33
    return base[:position] + b"".join(chunks) + base[position:]


def raw_png(depth: int, kind: int, row: bytes, width: int, transparent: bytes) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
        + chunk(b"tRNS", transparent)
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


def profile_of(size: int) -> bytes:
    """Return an sRGB profile, padded as profiles with large tables are."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).bytes(size - len(profile))
    padded = profile + noise
    return struct.pack(">I", len(padded)) + padded[4:]


@pytest.mark.parametrize("at_end", [False, True], ids=["before the pixels", "after them"])
@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LONG)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LONG)),
        chunk(b"tEXt", b"Comment\0" + LONG * 8) * 5,
        chunk(b"zTXt", b"Comment\0\7" + b"another compression"),
        chunk(b"zTXt", b"Comment\0\0no zlib"),
        chunk(b"tEXt", b"\xff" * 100),
        chunk(b"iTXt", b""),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile_of(1_500_000))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(5_000_000))),
        chunk(b"iCCP", b"profile\0\7" + b"another compression"),
        chunk(b"iCCP", b"profile\0\0no zlib"),
        chunk(b"iCCP", b"no end of the name"),
        chunk(b"iCCP", b""),
        chunk(b"eXIf", b"no EXIF"),
        chunk(b"pHYs", b"short"),
        chunk(b"gAMA", b""),
        chunk(b"cHRM", b"short"),
        chunk(b"sRGB", b""),
        chunk(b"tEXt", b"Comment\0text")[:-4] + b"\0\0\0\0",
        chunk(b"eXIf", ORIENTATION_6)[:-4] + b"\0\0\0\0",
        chunk(b"prVt", LONG * 8),
        chunk(b"fcTL", bytes(26)),
        chunk(b"acTL", b""),
    ],
    ids=lambda odd: f"{odd[4:8].decode()} {len(odd)}",
)
def test_metadata_that_pillow_refuses_does_not_cost_the_picture(odd: bytes, at_end: bool) -> None:
    np.testing.assert_array_equal(np.asarray(decode(with_chunks(odd, at_end=at_end))), UPRIGHT)


@pytest.mark.parametrize("at_end", [False, True], ids=["before the pixels", "after them"])
@pytest.mark.parametrize(
    "orientation",
    [
        chunk(b"eXIf", ORIENTATION_6),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n      32\n" + (b"Exif\0\0" + ORIENTATION_6).hex().encode()),
        ),
        chunk(
            b"tEXt",
            b"Raw profile type exif\0\nexif\n      32\n"
            + (b"Exif\0\0" + ORIENTATION_6).hex().encode(),
        ),
    ],
    ids=["eXIf", "XMP", "compressed XMP", "compressed raw profile", "raw profile"],
)
def test_every_way_to_tell_the_orientation_is_kept(orientation: bytes, at_end: bool) -> None:
    long = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG))
    turned = np.asarray(decode(with_chunks(long, orientation, at_end=at_end)))
    np.testing.assert_array_equal(turned, np.rot90(UPRIGHT, -1))


def test_an_animation_shows_its_default_picture() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    for default in (True, False):
        data = encoded(frames[0], save_all=True, append_images=frames[1:], default_image=default)
        assert np.asarray(decode(data)).mean((0, 1)).tolist() == [255, 0, 0]


@pytest.mark.parametrize("length", [40, 60, 100, -5, -13])
def test_a_cut_file_is_still_damaged_or_whole(length: int) -> None:
    long = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG))
    cut = with_chunks(long)[:length]
    if length < 0:
        # Only the mark of the end is missing.
        np.testing.assert_array_equal(np.asarray(decode(cut)), UPRIGHT)
        return
    with pytest.raises(ImageDecodeError, match="truncated or damaged"):
        decode(cut)


def test_a_damaged_chunk_of_the_picture_itself_is_an_error() -> None:
    position = PLAIN.index(b"IDAT") + 20
    broken = PLAIN[:position] + bytes([PLAIN[position] ^ 255]) + PLAIN[position + 1 :]
    with pytest.raises(ImageDecodeError, match="truncated or damaged"):
        decode(broken)


@pytest.mark.parametrize(
    ("data", "levels"),
    [
        (raw_png(1, 0, bytes([0b01000000]), 2, b"\0\0"), [255, 255]),
        (raw_png(2, 0, bytes([0b00011011]), 4, b"\0\1"), [0, 255, 170, 255]),
        (raw_png(4, 0, bytes([0x0A, 0x5F]), 4, b"\0\x0a"), [0, 255, 85, 255]),
        (raw_png(8, 0, bytes([0, 10, 200]), 3, b"\0\x0a"), [0, 255, 200]),
        (raw_png(16, 0, bytes([0, 0, 1, 44, 156, 64]), 3, b"\x01\x2c"), [0, 255, 156]),
        (raw_png(8, 2, bytes([0] * 3 + [9] * 3), 2, b"\0\x09" * 3), [0, 255]),
        (raw_png(16, 2, bytes([156, 64] * 3 + [1, 0] * 3), 2, b"\x9c\x40" * 3), [255, 1]),
    ],
    ids=["1 bit", "2 bits", "4 bits", "8 bits", "16 bits", "RGB", "16-bit RGB"],
)
def test_the_transparent_colour_is_white_at_every_bit_depth(data: bytes, levels: list[int]) -> None:
    assert np.asarray(decode(data))[0, :, 0].tolist() == levels


def test_text_that_pillow_accepts_changes_nothing() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "a picture")
    texts.add_itxt("Author", "jemand", zip=True)
    buffer = io.BytesIO()
    picture(40, 30).save(buffer, "PNG", pnginfo=texts, dpi=(72, 72))
    np.testing.assert_array_equal(np.asarray(decode(buffer.getvalue())), UPRIGHT)
