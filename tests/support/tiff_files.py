"""TIFF files with any tags, as Pillow does not write them."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

ASCII, SHORT, LONG, UNDEFINED = 2, 3, 4, 7
RAW, DEFLATE = 1, 8
_SIZES = {ASCII: 1, SHORT: 2, LONG: 4, UNDEFINED: 1}

Tags = Mapping[int, tuple[int, bytes | Sequence[int]]]


def tiff_of(values: NDArray[Any], tags: Tags | None = None, compression: int = RAW) -> bytes:
    """Return a grey TIFF of integers or floats [height, width] in their own byte order.

    Args:
        values: the pixels.
        tags: type and value of further tags, or of others than black-is-zero.
        compression: RAW or DEFLATE.
    """
    height, width = values.shape
    order = ">" if values.dtype.str[0] == ">" else "<"
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    described: Tags = {
        258: (SHORT, [8 * values.itemsize]),
        262: (SHORT, [1]),
        339: (SHORT, [sample_format]),
        **(tags or {}),
    }
    return tiff(width, height, values.tobytes(), described, order, compression)


def tiff(
    width: int, height: int, pixels: bytes, tags: Tags, order: str = "<", compression: int = RAW
) -> bytes:
    """Return a TIFF of one strip.

    Args:
        width: in pixels.
        height: in pixels.
        pixels: the rows, packed as the tags tell.
        tags: type and value of all other tags.
        order: ``<`` for II, ``>`` for MM.
        compression: RAW or DEFLATE.
    """
    strip = pixels if compression == RAW else zlib.compress(pixels)
    start = 8
    every: dict[int, tuple[int, bytes | Sequence[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        259: (SHORT, [compression]),
        273: (LONG, [start]),
        278: (LONG, [height]),
        279: (LONG, [len(strip)]),
        **tags,
    }
    directory = start + len(strip) + len(strip) % 2
    behind = directory + 2 + 12 * len(every) + 4
    entries, data = b"", b""
    for tag, (kind, value) in sorted(every.items()):
        letter = {SHORT: "H", LONG: "I"}.get(kind)
        packed = (
            bytes(value) if letter is None else struct.pack(f"{order}{len(value)}{letter}", *value)
        )
        count = len(packed) // _SIZES[kind]
        if len(packed) > 4:
            field = struct.pack(f"{order}I", behind + len(data))
            data += packed + b"\0" * (len(packed) % 2)
        else:
            field = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, count) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    count_of_entries = struct.pack(f"{order}H", len(every))
    padding = b"\0" * (len(strip) % 2)
    return head + strip + padding + count_of_entries + entries + bytes(4) + data


def nodata(text: str) -> Tags:
    """Return the tag of GDAL that tells the value of missing pixels."""
    return {42113: (ASCII, text.encode() + b"\0")}
