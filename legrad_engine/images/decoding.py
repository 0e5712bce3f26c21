"""Decoding of pictures."""

import io
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError, LegradError
from legrad_engine.images.arrays import picture_of
from legrad_engine.images.colors import to_srgb
from legrad_engine.images.containers import Parts
from legrad_engine.images.deep import to_grey
from legrad_engine.images.formats import open_picture, unreadable
from legrad_engine.images.geometry import Box
from legrad_engine.images.heif import HeifFile
from legrad_engine.images.readers import AvifFile, JpegFile, TiffFile, without_file

DEFAULT_MAX_PIXELS = 64_000_000

LeastSize = Callable[[tuple[int, int]], tuple[int, int]]
"""Returns the (width, height) that is enough of an upright picture of (width, height) pixels."""

_Side = TypeVar("_Side", int, float)

ImageSource = Image.Image | NDArray[np.generic] | bytes | str | os.PathLike[str]


# Pillow keeps an address for each row, and resizing more for each row and column: a strip one pixel
# wide takes ten times the memory of a square with as many pixels.
_LONGEST_SIDE = 1_000_000

# How the decoders below Pillow say that memory is short; -9 is Pillow's own number for it.
_NO_MEMORY = re.compile(
    r"out of memory|memory allocation|cannot allocate|decoder error -9\b", re.IGNORECASE
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_SIDE = frozenset(_UPRIGHT[value] for value in (5, 6, 7, 8))
# Turns after which the right edge of the file's picture is the left one, and the lower the upper.
_MIRRORED = (
    frozenset(_UPRIGHT[value] for value in (2, 3, 6, 7)),
    frozenset(_UPRIGHT[value] for value in (3, 4, 7, 8)),
)


def decode(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Read a picture as upright 8-bit RGB in the colours of sRGB.

    The content decides the format, not the file's name. EXIF orientation is applied, and so is an
    ICC profile. Alpha is composited over white. Grey and float images deeper than 8 bits are
    scaled, not clipped, by the range that their file states. The first frame of an animation or a
    multi-page file is read.

    Args:
        source: A Pillow image (at its current frame), an array as in
            :func:`legrad_engine.images.arrays.picture_of`, an encoded file, or the path of one.
        max_pixels: Largest accepted width x height, checked before pixels are decoded.

    Raises:
        ImageTooLargeError: The picture has more than max_pixels, or a side of more than a million.
        ImageDecodeError: The file cannot be read, or does not hold a whole picture in an accepted
            format.
        MemoryError: There is not enough memory; the picture may be whole.
    """
    return _read(source, max_pixels, with_stored=False).srgb


@dataclass(frozen=True)
class Versions:
    """An upright picture in RGB, in two kinds of colours.

    Attributes:
        srgb: in sRGB.
        stored: without regard to its ICC profile; the same object where that changes nothing.
        full_size: (width, height) of the file's picture, upright; the versions may be smaller.
        shown: the box of the versions, in their pixels, that the file's picture fills. Pixels at
            an edge of a smaller version lie partly outside it.
    """

    srgb: Image.Image
    stored: Image.Image
    full_size: tuple[int, int]
    shown: Box


def decode_versions(
    source: ImageSource,
    *,
    with_stored: bool = False,
    least_size: LeastSize | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Versions:
    """Read a picture as :func:`decode` does, and on demand also as stored, or smaller.

    Args:
        source: See :func:`decode`.
        with_stored: Whether to return also the picture as stored.
        least_size: The size that is enough. A JPEG of at least twice that is decoded at a half, a
            quarter or an eighth of its size, at a part of the cost: the coefficients of high
            frequencies are left out.
        max_pixels: See :func:`decode`.

    Raises:
        ImageTooLargeError: See :func:`decode`.
        ImageDecodeError: See :func:`decode`.
        LegradError: Of least_size.
    """
    return _read(source, max_pixels, with_stored, least_size)


@dataclass(frozen=True)
class _Decoded:
    """A picture in RGB, not yet upright.

    Attributes:
        srgb: in sRGB.
        stored: as stored; the same object where nothing is to be converted.
        turn: the rotation or mirroring that makes it upright.
        full_size: (width, height) of the file's picture, upright.
        shown: see :class:`Versions`.
    """

    srgb: Image.Image
    stored: Image.Image
    turn: Image.Transpose | None
    full_size: tuple[int, int]
    shown: Box


def _read(
    source: ImageSource,
    max_pixels: int,
    with_stored: bool,
    least_size: LeastSize | None = None,
) -> Versions:
    decoded = _decode(source, max_pixels, least_size)
    turn, srgb, stored = decoded.turn, decoded.srgb, decoded.stored
    full_size, shown = decoded.full_size, decoded.shown
    # Each version has four bytes for each pixel, and turning makes another one.
    del decoded
    if stored is srgb or not with_stored:
        del stored
        srgb = _turned(srgb, turn)
        return Versions(srgb, srgb, full_size, shown)
    srgb = _turned(srgb, turn)
    return Versions(srgb, _turned(stored, turn), full_size, shown)


def _decode(source: ImageSource, max_pixels: int, least_size: LeastSize | None) -> _Decoded:
    if isinstance(source, Image.Image):
        return _convert(source, max_pixels)
    if isinstance(source, np.ndarray):
        return _convert(picture_of(source), max_pixels)
    if isinstance(source, bytes):
        return _decode_stream(io.BytesIO(source), max_pixels, least_size)
    try:
        with Path(source).open("rb") as stream:
            return _decode_stream(stream, max_pixels, least_size)
    except (OSError, ValueError) as error:
        raise ImageDecodeError(
            f"The image file {os.fspath(source)!r} cannot be opened ({error}): check the path.",
            field="image",
        ) from error


def _decode_stream(stream: IO[bytes], max_pixels: int, least_size: LeastSize | None) -> _Decoded:
    try:
        with open_picture(stream) as image:
            return _convert(image, max_pixels, least_size, is_own=True)
    except Image.DecompressionBombError as error:
        raise _too_large("The image has too many pixels", max_pixels) from error
    except (LegradError, MemoryError):
        raise
    except Exception as error:
        raise _failure(error) from error


def _convert(
    image: Image.Image,
    max_pixels: int,
    least_size: LeastSize | None = None,
    *,
    is_own: bool = False,
) -> _Decoded:
    """Convert a picture, whose pixels may become those of the result if it is not the caller's."""
    _check_size(image, max_pixels)
    size = filled = None
    if least_size is not None and isinstance(image, JpegFile):
        size = image.size
        turn = _UPRIGHT.get(_orientation(image))
        filled = image.reduce_to(_as_upright(least_size(_as_upright(size, turn)), turn))
    # On hostile bytes Pillow's readers raise exceptions of nearly any type, from struct.error to
    # ZeroDivisionError; all of them mean that the picture cannot be read.
    try:
        image.load()
        stored = without_file(image) if is_own and _is_plain_rgb(image) else _to_rgb(image)
    except Exception as error:
        raise _failure(error) from error
    srgb = to_srgb(image.info.get("icc_profile"), image, stored)
    # Only now: Pillow turns a TIFF itself when it is loaded, and would load a PNG for its EXIF.
    turn = _UPRIGHT.get(_orientation(image))
    full_size = _as_upright(size or stored.size, turn)
    return _Decoded(srgb, stored, turn, full_size, _shown(stored.size, filled or stored.size, turn))


def _as_upright(size: tuple[_Side, _Side], turn: Image.Transpose | None) -> tuple[_Side, _Side]:
    """Exchange width and height where a picture lies on its side."""
    return (size[1], size[0]) if turn in _ON_SIDE else size


def _shown(size: tuple[int, int], filled: tuple[float, float], turn: Image.Transpose | None) -> Box:
    """Return the box that a picture fills, from the top left before it is turned, once it is.

    Args:
        size: (width, height) of the pixels, before the turn.
        filled: (width, height) of the picture on them, before the turn.
        turn: the turn.
    """
    width, height = _as_upright(filled, turn)
    left, top = (
        whole - part if turn in mirrored else 0.0
        for whole, part, mirrored in zip(
            _as_upright(size, turn), (width, height), _MIRRORED, strict=True
        )
    )
    return left, top, left + width, top + height


def _failure(error: Exception) -> Exception:
    """Return the error of a reader that has failed; a lack of memory is not the picture's fault."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return MemoryError(str(error))
    return unreadable(error)


def _turned(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    upright = picture if turn is None else picture.transpose(turn)
    # An orientation left in the metadata would rotate the picture again when it is decoded again.
    upright.info.clear()
    return upright


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if isinstance(image, TiffFile):
        _check_tiles(image, max_pixels)
        _check_part(max(image.coded_sizes, key=math.prod, default=(0, 0)), max_pixels)
    if isinstance(image, AvifFile | HeifFile):
        _check_parts(image.parts, max_pixels)
    if image.width * image.height > max_pixels:
        raise _too_large(f"The image is {image.width} x {image.height} pixels", max_pixels)
    if max(image.size) > _LONGEST_SIDE:
        raise ImageTooLargeError(
            f"The image is {image.width} x {image.height} pixels; no side may be longer than "
            f"{_LONGEST_SIDE}: send a part of it.",
            field="image",
        )
    if 0 in image.size:
        raise ImageDecodeError("The image has no pixels: send one that does.", field="image")


def _check_parts(parts: Parts, max_pixels: int) -> None:
    """Refuse parts beyond the pixel limit: they are decoded whole, even if the file crops them."""
    _check_part(parts.largest, max_pixels)
    if parts.pixels > max_pixels:
        raise _too_large(f"The image has cells of {parts.pixels} pixels", max_pixels)


def _check_part(size: tuple[int, int], max_pixels: int) -> None:
    if math.prod(size) > max_pixels:
        width, height = size
        raise _too_large(f"The image has parts of {width} x {height} pixels", max_pixels)


def _check_tiles(image: TiffFile, max_pixels: int) -> None:
    """Refuse tiles beyond the pixel limit: a tile is decoded whole, even if it is mostly empty."""
    width, height = (
        image.tag_v2.get(tag, 1) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength)
    )
    # The decoder below Pillow reads also numbers of types that Pillow takes for something else.
    if not (isinstance(width, int) and isinstance(height, int)):
        raise ImageDecodeError(
            "The image is damaged (the size of its tiles is no whole number): save it again.",
            field="image",
        )
    if width * height > max_pixels:
        raise _too_large(f"The image has tiles of {width} x {height} pixels", max_pixels)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Damaged metadata is common and does not affect the pixels.
        return 1


def _is_plain_rgb(image: Image.Image) -> bool:
    return image.mode == "RGB" and not image.has_transparency_data


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_grey(image)).convert("RGB")
    if image.mode == "La":
        # Pillow converts premultiplied grey to nothing else.
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        rgba = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
        return rgba.convert("RGB")
    return image.convert("RGB")


def _too_large(finding: str, max_pixels: int) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"{finding}; the limit is {max_pixels} pixels: send a smaller picture.",
        field="image",
    )
