"""Small files that state two sizes, or one in an unusual way, of which one is enormous."""

import struct
import zlib
from collections.abc import Sequence

from PIL import Image

from tests.support.pictures import encoded, heic

_SIDE = 8_000
_BYTE, _SHORT, _LONG, _RATIONAL = 1, 3, 4, 5

Entry = tuple[int, int, int, int | None]
"""Tag, type, count, and value; None stands for the offset of the data."""


def tiff_with(entries: Sequence[Entry], data: bytes) -> bytes:
    """Return a TIFF with entries in the given order, repeats included."""
    start = 8 + 2 + 12 * len(entries) + 4
    packed = b"".join(
        struct.pack("<HHII", tag, kind, count, start if value is None else value)
        for tag, kind, count, value in entries
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + data


def _grey(width: int = 64, height: int = 64, compression: int = 8) -> list[Entry]:
    return [
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, compression),
        (262, _SHORT, 1, 1),
        (277, _SHORT, 1, 1),
    ]


_ZEROS = zlib.compress(bytes(_SIDE * _SIDE), 9)


def _tiled(*sizes: Entry) -> bytes:
    return tiff_with(
        [*_grey(), *sizes, (324, _LONG, 1, None), (325, _LONG, 1, len(_ZEROS))], _ZEROS
    )


def _jpeg_frame(width: int, height: int, kind: int = 0xC2) -> bytes:
    return b"\xff" + bytes([kind]) + struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0)


def _jpeg_in_tiff(width: int, coded: tuple[int, int], compression: int) -> bytes:
    plain = bytearray(encoded(Image.new("L", (64, 64)), "JPEG", progressive=True))
    frame = plain.index(b"\xff\xc2")
    plain[frame + 5 : frame + 9] = struct.pack(">HH", coded[1], coded[0])
    strip = [(273, _LONG, 1, None), (278, _LONG, 1, 16), (279, _LONG, 1, len(plain))]
    return tiff_with([*_grey(width, 16, compression), *strip], bytes(plain))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*sides: int, more: bytes = b"", pixels: bytes = bytes(72)) -> bytes:
    heads = b"".join(
        _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) for side in sides
    )
    data = _chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + heads + more + data + _chunk(b"IEND", b"")


def _gif(frames: Sequence[tuple[int, int]], control: bytes = b"") -> bytes:
    """Return a GIF with a screen of 8 x 8 and frames, each (place, side) in both directions."""
    data = b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x80\0\0" + bytes(6) + control
    for place, side in frames:
        data += b"," + struct.pack("<HHHH", place, place, side, side) + b"\0\2\2\x4c\x01\0"
    return data + b";"


def _riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _canvas(side: int, flags: int = 0) -> bytes:
    return b"VP8X" + struct.pack("<IB3x", 10, flags) + (side - 1).to_bytes(3, "little") * 2


def _frame(side: int, picture: bytes) -> bytes:
    head = bytes(6) + (side - 1).to_bytes(3, "little") * 2 + bytes(3) + b"\0"
    return b"ANMF" + struct.pack("<I", len(head + picture)) + head + picture


_ANIMATED = (_canvas(8, 2), b"ANIM" + struct.pack("<I", 6) + bytes(6))
_SMALL = encoded(Image.new("RGB", (8, 8)), "WEBP")[12:]
_LARGE = _SMALL.replace(b"\x9d\x01\x2a\x08\0\x08\0", b"\x9d\x01\x2a" + b"\xff\x3f" * 2)


def _lossless_large() -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:])
    (fields,) = struct.unpack_from("<I", data, 9)
    struct.pack_into("<I", data, 9, fields >> 28 << 28 | 16_382 << 14 | 16_382)
    return bytes(data)


def _with_second(data: bytes, kind: bytes, **hidden: bytes) -> bytes:
    """Return a HEIC with a second box of a kind behind the first, without some of its content."""
    start = data.index(kind) - 4
    stop = start + int.from_bytes(data[start : start + 4], "big")
    second = data[start:stop]
    for old in hidden.values():
        second = second.replace(old, b"free")
    metadata = data.index(b"meta") - 4
    size = int.from_bytes(data[metadata : metadata + 4], "big") + len(second)
    return (
        data[:metadata] + struct.pack(">I", size) + data[metadata + 4 : stop] + second + data[stop:]
    )


_JPEG = encoded(Image.new("L", (8, 8)), "JPEG")
_JPEG_START = _JPEG.index(b"\xff\xc0")
_HEIC = heic(Image.new("RGB", (64, 64), "red"))
_APNG = _chunk(b"acTL", struct.pack(">II", 2, 0)) + _chunk(
    b"fcTL", struct.pack(">IIIIIHHBB", 0, _SIDE, _SIDE, 0, 0, 1, 1, 0, 0)
)
_BITMAP = struct.pack("<IHHI", 0, 0, 0, 1078) + struct.pack(
    "<IiiHHIIiiII", 40, 1_000_000, 4, 1, 8, 1, 4, 0, 0, 256, 0
)

LYING: dict[str, bytes] = {
    "tiff tile width as bytes": _tiled((322, _BYTE, 1, 240), (323, _LONG, 1, _SIDE * _SIDE // 240)),
    "tiff tile size as fractions": _tiled((322, _RATIONAL, 1, 8), (323, _RATIONAL, 1, 8)),
    "tiff two tile sizes, large first": _tiled(
        *((tag, _LONG, 1, side) for tag in (322, 323) for side in (_SIDE, 64))
    ),
    "tiff two tile sizes, small first": _tiled(
        *((tag, _LONG, 1, side) for tag in (322, 323) for side in (64, _SIDE))
    ),
    "tiff tile depth": _tiled(
        (322, _LONG, 1, 64), (323, _LONG, 1, 64), (32997, _LONG, 1, 999), (32998, _LONG, 1, 99_999)
    ),
    "tiff two sizes": tiff_with(
        [
            *_grey(),
            *((273, _LONG, 1, None), (278, _LONG, 1, _SIDE), (279, _LONG, 1, len(_ZEROS))),
            *((256, _LONG, 1, _SIDE), (257, _LONG, 1, _SIDE)),
        ],
        _ZEROS,
    ),
    "tiff jpeg strip": _jpeg_in_tiff(65_500, (65_500, 65_500), 7),
    "tiff jpeg strip, wider": _jpeg_in_tiff(64, (65_500, 65_500), 7),
    "tiff jpeg strip, old": _jpeg_in_tiff(65_500, (65_500, 65_500), 6),
    "jpeg two frames, large first": (
        _JPEG[:_JPEG_START] + _jpeg_frame(65_500, 65_500) + _JPEG[_JPEG_START:]
    ),
    "jpeg two frames, large last": (
        _JPEG[: _JPEG_START + 13] + _jpeg_frame(65_500, 65_500) + _JPEG[_JPEG_START + 13 :]
    ),
    "jpeg large frame behind an unknown marker": (
        _JPEG[:_JPEG_START] + b"\xff\xf0" + _jpeg_frame(65_500, 65_500) + _JPEG[_JPEG_START:]
    ),
    "jpeg second picture": _JPEG + _JPEG[:_JPEG_START] + _jpeg_frame(65_500, 65_500),
    "png two headers, large last": _png(8, _SIDE),
    "png two headers, large first": _png(_SIDE, 8),
    "png more pixels than stated": _png(8, pixels=bytes(100_000_000)),
    "png frame of an animation": _png(8, more=_APNG),
    "gif frame beyond the screen": _gif([(65_000, 8)], b"!\xf9\x04\x0d\0\0\0\0"),
    "gif second frame": _gif([(0, 8), (0, 65_000)]),
    "webp canvas, larger picture": _riff(_canvas(8), _LARGE),
    "webp canvas, larger lossless picture": _riff(_canvas(8), _lossless_large()),
    "webp lossless": _riff(_lossless_large()),
    "webp frame, larger picture": _riff(*_ANIMATED, _frame(8, _LARGE)),
    "webp frame larger than the canvas": _riff(*_ANIMATED, _frame(16_383, _LARGE)),
    "webp second frame": _riff(*_ANIMATED, _frame(8, _SMALL), _frame(16_383, _LARGE)),
    "webp two canvases": _riff(_canvas(8), _canvas(16_383), _LARGE),
    "webp two pictures": _riff(_SMALL, _LARGE),
    "bmp run-length far moves": b"BM" + _BITMAP + bytes(1024) + b"\0\2\xff\xff" * 9 + b"\0\1",
    "bmp least height": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 8, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    "ppm floats": b"Pf\n60000 60000\n-1.0\n",
    "ppm of Pillow's own kind": b"PyRGBA\n60000 60000\n255\n",
    "heic two lists of properties": _with_second(_HEIC, b"iprp", coded=b"hvcC"),
    "heic two lists of items": _with_second(_HEIC, b"iinf", coded=b"hvc1"),
    "heic two lists of places": _with_second(_HEIC, b"iloc"),
}
