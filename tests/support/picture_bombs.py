"""Picture bombs: small files that declare, or unpack to, an enormous size."""

import struct
import zlib

from PIL import Image

from tests.support.icc_profiles import elements, profile
from tests.support.pictures import bomb, encoded, heic

MOST = 4_000_000


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    return _png_filled(b"".join(_chunk(kind, data) for kind, data in chunks))


def _png_filled(extra: bytes) -> bytes:
    plain = encoded(Image.new("RGB", (8, 8)))
    return plain[:33] + extra + plain[33:]


def _jpeg(**options: bool) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG", **options))
    frame = data.index(b"\xff\xc2" if options else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def _gif(screen: int, frame: int, blocks: bytes = b"") -> bytes:
    head = b"GIF89a" + struct.pack("<HH", screen, screen) + b"\x80\0\0" + b"\0" * 6 + blocks
    return head + b"," + struct.pack("<HHHH", 0, 0, frame, frame) + b"\0\2\2\x4c\x01\0;"


def _bmp(bits: int, compression: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, bits, compression, 0, 0, 0, 0, 0)
    )


def long_bmp(side: int) -> bytes:
    """Return a run-length encoded BMP, four bytes for each row, that takes Pillow seconds."""
    # One pixel, and the end of the row, again and again; the rest of each row is left out.
    rows = b"\x01\x00\x00\x00" * side + b"\x00\x01"
    offset = 54 + 1024
    return (
        b"BM"
        + struct.pack("<IHHI", offset + len(rows), 0, 0, offset)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
        + bytes(1024)
        + rows
    )


def _tiff(size: int, tags: list[tuple[int, int]], data: bytes) -> bytes:
    """Return a grey deflated TIFF; a tag value of 0 stands for the offset of the data."""
    every = sorted(
        [(256, size), (257, size), (258, 8), (259, 8), (262, 1), (277, 1), *tags],
    )
    start = 8 + 2 + 12 * len(every) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value or start) for tag, value in every)
    return b"II*\0" + struct.pack("<IH", 8, len(every)) + entries + bytes(4) + data


def _tiff_tiles(side: int) -> bytes:
    data = zlib.compress(bytes(side * side), 9)
    return _tiff(64, [(322, side), (323, side), (324, 0), (325, len(data))], data)


def _tiff_strips(rows: int) -> bytes:
    data = zlib.compress(bytes(64 * rows), 9)
    return _tiff(64, [(273, 0), (278, rows), (279, len(data))], data)


def _webp_canvas(side: int) -> bytes:
    picture = encoded(Image.new("RGBA", (8, 8)), "WEBP", lossless=True)[12:]
    frame = bytes(6) + (7).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0" + picture
    body = (
        b"WEBPVP8X"
        + struct.pack("<IB3x", 10, 0x12)
        + (side - 1).to_bytes(3, "little") * 2
        + b"ANIM"
        + struct.pack("<I", 6)
        + bytes(6)
        + b"ANMF"
        + struct.pack("<I", len(frame))
        + frame
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_lossy() -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP"))
    start = data.index(b"\x9d\x01\x2a") + 3
    data[start : start + 4] = struct.pack("<HH", 16_383, 16_383)
    return bytes(data)


def _resized(data: bytes, side: int) -> bytes:
    """Return an AVIF or HEIC file that declares another size."""
    changed = bytearray(data)
    struct.pack_into(">II", changed, changed.index(b"ispe") + 8, side, side)
    return bytes(changed)


def _jpeg_comment(text: bytes) -> bytes:
    plain = encoded(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(text)) + text + plain[2:]


def _jpeg_scans(count: int, hidden: bytes = b"") -> bytes:
    """Return a progressive JPEG with so many scans of a hundred bytes each."""
    plain = encoded(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + (hidden + plain[last:-2]) * count + plain[-2:]


_COMMENTS = b"#\n" * 400_000


def _coded_larger(kind: str, mode: str = "L", side: int = 4_000) -> bytes:
    """Return a picture whose file says 64 x 64, and whose coded frame has side x side pixels."""
    return _resized(encoded_at_most(Image.new(mode, (side, side)), kind), 64)


def encoded_at_most(image: Image.Image, kind: str) -> bytes:
    """Return AVIF, or HEIC, encoded as fast as possible."""
    return heic(image, quality=1) if kind == "HEIC" else encoded(image, kind, quality=1, speed=10)


def _sequence_coded_larger() -> bytes:
    """Return an AVIF sequence that says 64 x 64 wherever the file, not the frames, says a size."""
    large = Image.new("L", (3_000, 3_000))
    data = bytearray(
        encoded(large, "AVIF", quality=1, speed=10, save_all=True, append_images=[large])
    )
    for name, offset, form in (
        (b"ispe", 8, ">II"),
        (b"tkhd", 92, ">II"),
        (b"av01", 28, ">HH"),
    ):
        sizes = (64, 64) if name != b"tkhd" else (64 << 16, 64 << 16)
        place = data.find(name)
        while place >= 0:
            if struct.unpack_from(form, data, place + offset)[0] in (3_000, 3_000 << 16):
                struct.pack_into(form, data, place + offset, *sizes)
            place = data.find(name, place + 1)
    return bytes(data)


def _with_foreign_format(sequence: bytes) -> bytes:
    """Return an AVIF sequence that names another format before its own; decoders skip that one.

    It has no still picture, whose size would be read in another place.
    """
    brands = sequence.index(b"meta") - 4
    sequence = sequence[:brands].replace(b"\0avif", b"\0none") + sequence[brands:]
    sequence = sequence.replace(b"meta", b"free", 1)
    start = sequence.index(b"moov") - 4
    (length,) = struct.unpack_from(">I", sequence, start)
    movie = bytearray(sequence[start : start + length])
    foreign = struct.pack(">I", 86) + b"none" + bytes(78)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        place = movie.index(kind) - 4
        (size,) = struct.unpack_from(">I", movie, place)
        struct.pack_into(">I", movie, place, size + len(foreign))
    entries = movie.index(b"stsd") + 12
    struct.pack_into(">I", movie, entries - 4, 2)
    movie[entries:entries] = foreign
    # Behind the pictures, whose places are told from the start of the file.
    hole = struct.pack(">I", length) + b"free" + bytes(length - 8)
    return sequence[:start] + hole + sequence[start + length :] + movie


def _jpeg_filled(filling: bytes, nbytes: int = 10_000_000) -> bytes:
    plain = encoded(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + filling * (nbytes // len(filling)) + plain[2:]


# Small files that take many seconds to decode.
SLOW = {
    "jpeg scans": _jpeg_scans(5_000),
    "jpeg scans after a reserved marker": _jpeg_scans(5_000, b"\xff\x02\xff\xff"),
    **{f"plain P{kind} comments": b"P%d 9 9 255 " % kind + _COMMENTS for kind in (1, 2, 3)},
    "jpeg empty segments": _jpeg_filled(b"\xff\xfe\0\2"),
    "jpeg empty EXIF": _jpeg_filled(b"\xff\xe1\0\x08Exif\0\0"),
    "jpeg padding": _jpeg_filled(b"\xff"),
    "jpeg restarts": _jpeg_filled(b"\xff\xd0"),
    "jpeg frames": _jpeg_filled(b"\xff\xc0\0\x0b\x08\0\x08\0\x08\1\1\x11\0"),
    "png empty chunks": _png_filled(_chunk(b"teXt", b"") * 800_000),
    "png empty pixels": _png_filled(_chunk(b"IDAT", b"") * 800_000),
    "ppm comments": b"P6\n" + _COMMENTS + b"8 8\n255\n" + bytes(192),
    "ppm one comment": b"P6\n8 8\n#" + b"a" * 5_000_000 + b"\n255\n" + bytes(192),
    "ppm spaces": b"P5\n" + b" " * 5_000_000 + b"8 8\n255\n" + bytes(64),
}

_TEXT = zlib.compress(bytes(200_000_000), 9)

TOO_LARGE = {
    "png": bomb(),
    "jpeg": _jpeg(),
    "jpeg progressive": _jpeg(progressive=True),
    "gif screen": _gif(65_535, 8),
    "gif frame": _gif(8, 9_000),
    # Pillow prepares an area for the next frame when it opens the file.
    "gif frame to be cleared": _gif(8, 12_000, b"!\xf9\x04\x08\0\0\0\0"),
    "gif frame to be restored": _gif(8, 12_000, b"!\xf9\x04\x0d\0\0\0\0"),
    "bmp": _bmp(24, 0),
    "bmp run-length": _bmp(8, 1),
    "ppm": b"P6\n60000 60000\n255\n",
    "pbm text": b"P1\n600000 60000\n",
    "tiff": _tiff(60_000, [(273, 0), (278, 60_000), (279, 8)], bytes(8)),
    "tiff tiles": _tiff_tiles(20_000),
    "webp canvas": _webp_canvas(10_000),
    "webp huge canvas": _webp_canvas(32_768),
    "webp lossy": _webp_lossy(),
    "avif": _resized(encoded(Image.new("RGB", (8, 8)), "AVIF"), 16_000),
    "heic": _resized(heic(Image.new("RGB", (8, 8))), 16_000),
    "png strip": encoded(Image.new("L", (1, 2_000_000))),
    "png line": encoded(Image.new("L", (2_000_000, 1))),
}

_SEQUENCE = _sequence_coded_larger()

# Files that state a small size, and whose coded pictures state another one.
CODED_LARGER = {
    "avif": _coded_larger("AVIF"),
    "avif with alpha": _coded_larger("AVIF", "LA"),
    "avif sequence": _SEQUENCE,
    "avif sequence behind another format": _with_foreign_format(_SEQUENCE),
    "heic": _coded_larger("HEIC", side=3_000),
}

_EXIF = b"II*\0" + struct.pack("<IH", 8, 60_000) + struct.pack("<HHII", 274, 3, 1, 6) * 60_000

_COLOR_TABLE = b"mft2" + bytes(4) + bytes([3, 3, 255, 0]) + bytes(200)

# Metadata that unpacks, or is evaluated, without end, beside a picture that needs none of it.
HARMLESS = {
    "png zTXt": _png_with((b"zTXt", b"a\0\0" + _TEXT)),
    "png iTXt": _png_with((b"iTXt", b"a\0\1\0\0\0" + _TEXT)),
    "png XMP": _png_with((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _TEXT)),
    "png iCCP": _png_with((b"iCCP", b"a\0\0" + _TEXT)),
    "png many zTXt": _png_with(
        *((b"zTXt", b"a%d\0\0" % each + zlib.compress(bytes(1_000_000), 9)) for each in range(200))
    ),
    "png many raw profiles": _png_with(
        *[(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(900_000), 9))] * 200
    ),
    "png many iCCP": _png_with(*[(b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000), 9))] * 200),
    "icc elements": encoded(Image.new("RGB", (8, 8)), "JPEG", icc_profile=elements(5_000)),
    "icc table": encoded(
        Image.new("RGB", (8, 8)),
        "JPEG",
        icc_profile=profile(b"RGB ", {b"A2B0": _COLOR_TABLE}),
    ),
    "jpeg of some scans": _jpeg_scans(20),
    "jpeg before something else": encoded(Image.new("RGB", (8, 8)), "JPEG") + b"\xff\xda" * 1000,
    "jpeg metadata like scans": _jpeg_comment(b"\xff\xda" * 1000),
    "ppm of any bytes": b"P6\n8 8\n255\n" + b"#" * 192,
    "png EXIF": _png_with((b"eXIf", _EXIF)),
    "tiff strip beyond the picture": _tiff_strips(6_000_000),
}
