"""Pillow's readers of JPEG, WebP, AVIF and TIFF, without two faults.

They refuse pictures for their metadata, and call a picture damaged where memory is short.
"""

import io
import math
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import AvifImagePlugin, ExifTags, Image, JpegImagePlugin, TiffImagePlugin, WebPImagePlugin

from legrad_engine.images.containers import Parts, metadata_ranges, parts_of
from legrad_engine.images.memory import enough_to_decode

_COMMENT, _START_OF_SCAN, _FIRST_WITH_LENGTH = 0xFE, 0xDA, 0xC0
_SCAN = bytes((0xFF, _START_OF_SCAN))
# Starts of frames without a cosine transform.
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
# Names of segments that Pillow reads up to a length without asking for theirs, by their markers.
_LEAST_BYTES = {0xE0: (b"JFIF", 7), 0xE2: (b"ICC_PROFILE\0", 14), 0xEE: (b"Adobe", 7)}

# The entry of an item in the list of items, up to the item's type.
_EXIF_ITEM = re.compile(rb"(infe.{8,10}?)Exif", re.DOTALL)

# The start of a frame of a JPEG: length, precision, height and width, number of components.
_JPEG_FRAME = re.compile(
    rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf](?=(..).(....)(.))", re.DOTALL
)
_JPEG_COMPRESSIONS = frozenset({6, 7})

# Marker, start and stop.
_Segment = tuple[int, int, int]

_NATIVE_ORDERS = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}


# Bytes of the decoders' own for each pixel and each picture, as measured by limiting memory.
_AVIF_PIXEL, _AVIF_PICTURE = 10, 2**23
_WEBP_CANVASES, _WEBP_PIXEL, _WEBP_PICTURE = 8, 6, 2**20
_JPEG_COLUMN, _JPEG_PICTURE = 128, 2**20
# Dictionaries of Zstandard and LZMA.
_TIFF_PICTURE = 2**24
# An 8 x 8 block of 16-bit coefficients.
_BLOCK_SIDE, _BLOCK_BYTES = 8, 128
# 14 bits of a header.
_WEBP_SIDE = 0x3FFF


class JpegFile(JpegImagePlugin.JpegImageFile):
    """JPEG whose application segments may be too short, and which can be decoded smaller."""

    _is_lossless = False
    _decoder_bytes = _JPEG_PICTURE

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        segments = list(_segments(data))
        self.fp = io.BytesIO(_without_short_segments(data, segments))
        self._is_lossless = not _LOSSLESS.isdisjoint([marker for marker, _, _ in segments])
        super()._open()
        self._decoder_bytes += _JPEG_COLUMN * self.width
        # The decoder holds all coefficients of a picture that comes in several scans.
        if "progressive" in self.info or _first_scan(data, segments) < len(self.layer):
            self._decoder_bytes += _coefficient_bytes(self.size, self.layer)

    def load(self) -> Any:
        """Decode the picture."""
        with enough_to_decode(self._decoder_bytes):
            return super().load()

    def reduce_to(self, least_size: tuple[int, int]) -> tuple[float, float]:
        """Decode the pixels at 1/2, 1/4 or 1/8 of the size, if that is enough.

        Args:
            least_size: (width, height) that is enough.

        Returns:
            (width, height) of the picture in pixels of that size. The last column and row of pixels
            lie partly outside it where a side is no multiple.
        """
        drafted = None
        # Lossless files have no coefficients of frequencies that could be left out.
        if not self._is_lossless and all(map(int.__le__, least_size, self.size)):
            drafted = self.draft(None, least_size)
        return self.size if drafted is None else drafted[1][2:]


class WebpFile(WebPImagePlugin.WebPImageFile):
    """WebP that is refused for its size before it is refused for a lack of memory."""

    _is_open = True

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        self.fp = io.BytesIO(data)
        size = _webp_size(data)
        try:
            with enough_to_decode(_WEBP_CANVASES * math.prod(size) + _WEBP_PICTURE):
                super()._open()
        except MemoryError:
            self._size, self._mode, self._is_open = size, "RGB", False

    def load(self) -> Any:
        """Decode the picture.

        Raises:
            MemoryError: there is not enough memory.
        """
        if not self._is_open:
            raise MemoryError("no memory for the canvas of a WebP picture")
        with enough_to_decode(_WEBP_PIXEL * math.prod(self.size) + _WEBP_PICTURE):
            return super().load()


class AvifFile(AvifImagePlugin.AvifImageFile):
    """AVIF whose EXIF may be damaged. Its orientation is a property of the picture itself."""

    parts: Parts
    """Sizes that the file and its coded pictures state; Pillow knows only the former."""

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        self.parts = parts_of(data)
        self.fp = io.BytesIO(data)
        try:
            super()._open()
        except Exception as error:
            if "exif" not in str(error).lower():
                raise
            self.fp = io.BytesIO(_without_exif(data))
            super()._open()

    def load(self) -> Any:
        """Decode the picture."""
        pixels = self.parts.most_pixels(self.size)
        with enough_to_decode(_AVIF_PIXEL * pixels + _AVIF_PICTURE):
            return super().load()


class TiffFile(TiffImagePlugin.TiffImageFile):
    """TIFF whose XMP may be of a wrong type, and deep and compressed in big-endian order.

    The decoder turns compressed bytes into the machine's order, which Pillow only knows of 16 bits
    without a sign. A compression that Pillow does not know is named.
    """

    coded_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of every JPEG frame in the file; decoders need memory for a whole frame."""

    def _setup(self) -> None:
        compression = self.tag_v2.get(TiffImagePlugin.COMPRESSION, 1)
        if compression not in TiffImagePlugin.COMPRESSION_INFO:
            raise SyntaxError(f"unsupported compression {compression}")
        if compression in _JPEG_COMPRESSIONS:
            self.coded_sizes = self._jpeg_sizes()
        if not isinstance(self.info.get("xmp", b""), bytes | str):
            del self.info["xmp"]
        super()._setup()
        if self.use_load_libtiff:
            self.tile = [each._replace(args=_in_native_order(each.args)) for each in self.tile]

    def _jpeg_sizes(self) -> tuple[tuple[int, int], ...]:
        # Anywhere in the file: libtiff has its own ways to find strips whose places are not told.
        if self.fp is None:
            raise SyntaxError("the file is closed")
        position = self.fp.tell()
        self.fp.seek(0)
        data = self.fp.read()
        self.fp.seek(position)
        sizes = set()
        for length, size, components in (found.groups() for found in _JPEG_FRAME.finditer(data)):
            height, width = struct.unpack(">HH", size)
            if int.from_bytes(length, "big") == 8 + 3 * components[0]:
                sizes.add((width, height))
        return tuple(sizes)

    def load(self) -> Any:
        """Decode the picture."""
        if not self.use_load_libtiff:
            return super().load()
        # At worst, the file is one strip.
        bits = max(self.tag_v2.get(ExifTags.Base.BitsPerSample, (1,)))
        samples = self.tag_v2.get(ExifTags.Base.SamplesPerPixel, 1)
        with enough_to_decode(math.prod(self.size) * bits * samples // 8 + _TIFF_PICTURE):
            return super().load()

    def load_prepare(self) -> None:
        """Allocate the pixels, which Pillow does only within a limit of its own."""
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()


def without_file(image: Image.Image) -> Image.Image:
    """Return a decoded picture without its file, with the same pixels and not a copy of them."""
    return image._new(image.im)


def _without_short_segments(data: bytes, segments: Iterable[_Segment]) -> bytes:
    """Return a JPEG whose segments that are too short for their name have become comments."""
    short = []
    for marker, start, stop in segments:
        if marker in _LEAST_BYTES:
            name, least = _LEAST_BYTES[marker]
            content = data[start + 4 : min(stop, start + 4 + least)]
            if len(content) < least and content.startswith(name):
                short.append(start + 1)
    if not short:
        return data
    changed = bytearray(data)
    for place in short:
        changed[place] = _COMMENT
    return bytes(changed)


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield marker, start and stop of each segment of a JPEG before its pixels."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == _START_OF_SCAN or marker < _FIRST_WITH_LENGTH:
            return
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position, stop
        position = stop


def _first_scan(data: bytes, segments: Sequence[_Segment]) -> int:
    """Return the number of components in a JPEG's first scan."""
    start = segments[-1][2] if segments else 2
    header = data[max(data.find(_SCAN, start), start) :][:5]
    return header[-1] if header else 0


def _coefficient_bytes(size: tuple[int, int], layer: Sequence[tuple[int, int, int, int]]) -> int:
    """Return the memory of all coefficients of a JPEG.

    Args:
        size: (width, height).
        layer: number, horizontal and vertical samples, and table of each component, as in Pillow.
    """
    sides = (max((each[side] for each in layer), default=1) * _BLOCK_SIDE for side in (1, 2))
    units = math.prod(-(-length // max(side, 1)) for length, side in zip(size, sides, strict=True))
    return units * sum(across * down for _, across, down, _ in layer) * _BLOCK_BYTES


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the (width, height) that a WebP file states first."""
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    if kind == b"VP8L":
        both = _little(data[21:25])
        return (both & _WEBP_SIDE) + 1, (both >> 14 & _WEBP_SIDE) + 1
    return _little(data[26:28]) & _WEBP_SIDE, _little(data[28:30]) & _WEBP_SIDE


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")


def _without_exif(data: bytes) -> bytes:
    """Return an AVIF file whose EXIF has become an item of an unknown type."""
    changed = bytearray(data)
    for start, stop in metadata_ranges(data):
        changed[start:stop] = _EXIF_ITEM.sub(rb"\1none", data[start:stop])
    return bytes(changed)


def _in_native_order(args: Any) -> Any:
    order, *rest = args
    return (_NATIVE_ORDERS.get(order, order), *rest)
