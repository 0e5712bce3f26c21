"""Encoding of pictures, maps and arrays as files."""

import io
import math
import struct
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.file_formats import DEFAULT_QUALITY as DEFAULT_QUALITY
from legrad_engine.images.file_formats import PICTURE_FORMATS as PICTURE_FORMATS
from legrad_engine.images.file_formats import HeatmapFormat as HeatmapFormat
from legrad_engine.images.file_formats import PictureFormat as PictureFormat

_LONGEST_SIDES: dict[HeatmapFormat | PictureFormat, int] = {"jpeg": 65_500, "webp": 16_383}

_SUB, _UP = 1, 2
# Of zlib-ng: the next levels take a quarter more time for files a seventh smaller.
_LEVEL_OF_MAPS = 3


def encode_picture(
    picture: Image.Image | NDArray[np.uint8],
    format: PictureFormat,
    quality: int = DEFAULT_QUALITY,
) -> bytes:
    """Encode an RGB or grey picture.

    Args:
        picture: a Pillow image, or uint8 ``[height, width, 3]`` in RGB, ``[height, width, 4]`` with
            a byte without meaning, or ``[height, width]``.
        format: ``jpeg`` and ``webp`` lose detail; ``png`` loses nothing.
        quality: 1 to 100, for ``jpeg`` and ``webp``.

    Raises:
        InvalidOptionError: the format cannot hold a picture of this size.
    """
    if format == "png":
        return encode_png(picture)
    image = picture if isinstance(picture, Image.Image) else _image_of(picture)
    check_format(format, image.size)
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality)
    return buffer.getvalue()


def check_format(
    format: HeatmapFormat | PictureFormat, size: tuple[int, int], field: str = "format"
) -> None:
    """Refuse a format that cannot hold a picture.

    Args:
        format: the format.
        size: (width, height) of the picture, in pixels.
        field: name of the option that chose the format.

    Raises:
        InvalidOptionError: a side is too long.
    """
    longest = _LONGEST_SIDES.get(format, math.inf)
    if max(size) > longest:
        raise InvalidOptionError(
            f"{format} holds pictures of at most {longest} pixels a side, and this one has "
            f"{size[0]} x {size[1]}: use png, or a smaller max_side.",
            field=field,
        )


def encode_png(picture: Image.Image | NDArray[Any]) -> bytes:
    """Encode a picture or a map in whole levels as PNG.

    Args:
        picture: an RGB or grey Pillow image, uint8 ``[height, width, 3]`` in RGB or ``[height,
            width, 4]`` with a byte without meaning, or uint8 or uint16 ``[height, width]``.
    """
    pixels = np.asarray(picture)
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3]
    height, width = pixels.shape[:2]
    depth = pixels.itemsize
    rows = pixels if depth == 1 else pixels.astype(">u2")
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(height, -1)
    in_color = pixels.ndim == 3
    # Pillow and libpng try every filter on every row and deflate at 20 MB/s. One fixed filter with
    # ISA-L's deflate takes a sixth of the time, for files a tenth larger. Maps, whose rows are
    # smooth and alike, become a fifth smaller if deflate searches for longer.
    data = (
        isal_zlib.compress(_filtered_up(rows), 1)
        if in_color
        else zlib_ng.compress(_filtered_sub(rows, depth), _LEVEL_OF_MAPS)
    )
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, 2 if in_color else 0, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", data),
            _chunk(b"IEND", b""),
        )
    )


def encode_npy(array: NDArray[np.number[Any]]) -> bytes:
    """Encode an array as the bytes of a .npy file."""
    return _npy_header(array.shape, array.dtype.str) + array.tobytes()


def _image_of(pixels: NDArray[np.uint8]) -> Image.Image:
    height, width, *channels = pixels.shape
    if channels == [4]:
        # Of this mode no pixel is copied.
        return Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)
    return Image.fromarray(pixels)


# The maps of a model have few shapes, and a header takes longer than the rest.
@lru_cache(maxsize=64)
def _npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    header = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _filtered_up(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Filter rows: each byte minus the one above it."""
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _filtered_sub(rows: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Filter rows: each byte minus the one of the pixel to its left, of a step in bytes."""
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _SUB
    filtered[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
    return filtered


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", crc32(data, crc32(kind)))
    return b"".join((struct.pack(">I", len(data)), kind, data, checksum))
