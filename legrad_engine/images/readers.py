"""Pillow's readers of JPEG, AVIF and TIFF, without their refusal of pictures for their metadata."""

import io
import re
from collections.abc import Iterator
from typing import Any

from PIL import AvifImagePlugin, Image, JpegImagePlugin, TiffImagePlugin

from legrad_engine.images.heif import boxes

_COMMENT, _START_OF_SCAN, _FIRST_WITH_LENGTH = 0xFE, 0xDA, 0xC0
# Starts of frames without a cosine transform.
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
# Segments that Pillow reads up to this length without asking for theirs.
_LEAST_BYTES = {(0xE0, b"JFIF"): 7, (0xE2, b"ICC_PROFILE\0"): 14, (0xEE, b"Adobe"): 7}

# The entry of an item in the list of items, up to the item's type.
_EXIF_ITEM = re.compile(rb"(infe.{8,10}?)Exif", re.DOTALL)

_NATIVE_ORDERS = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}


class JpegFile(JpegImagePlugin.JpegImageFile):
    """JPEG whose application segments may be too short, and which can be decoded smaller."""

    _is_lossless = False

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        self.fp = io.BytesIO(_without_short_segments(data))
        self._is_lossless = any(marker in _LOSSLESS for marker, _, _ in _segments(data))
        super()._open()

    def reduce_to(self, least_size: tuple[int, int]) -> None:
        """Decode the pixels at 1/2, 1/4 or 1/8 of the size, if that is enough.

        Args:
            least_size: (width, height) that is enough.
        """
        # Lossless files have no coefficients of frequencies that could be left out.
        if not self._is_lossless and all(map(int.__le__, least_size, self.size)):
            self.draft(None, least_size)


class AvifFile(AvifImagePlugin.AvifImageFile):
    """AVIF whose EXIF may be damaged. Its orientation is a property of the picture itself."""

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        self.fp = io.BytesIO(data)
        try:
            super()._open()
        except Exception as error:
            if "exif" not in str(error).lower():
                raise
            self.fp = io.BytesIO(_without_exif(data))
            super()._open()


class TiffFile(TiffImagePlugin.TiffImageFile):
    """TIFF whose XMP may be of a wrong type, and deep and compressed in big-endian order.

    The decoder turns compressed bytes into the machine's order, which Pillow only knows of 16 bits
    without a sign. A compression that Pillow does not know is named.
    """

    def _setup(self) -> None:
        compression = self.tag_v2.get(TiffImagePlugin.COMPRESSION, 1)
        if compression not in TiffImagePlugin.COMPRESSION_INFO:
            raise SyntaxError(f"unsupported compression {compression}")
        if not isinstance(self.info.get("xmp", b""), bytes | str):
            del self.info["xmp"]
        super()._setup()
        if self.use_load_libtiff:
            self.tile = [each._replace(args=_in_native_order(each.args)) for each in self.tile]

    def load_prepare(self) -> None:
        """Allocate the pixels, which Pillow does only within a limit of its own."""
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()


def _without_short_segments(data: bytes) -> bytes:
    """Return a JPEG whose segments that are too short for their name have become comments."""
    short = []
    for marker, start, stop in _segments(data):
        for (kind, name), least in _LEAST_BYTES.items():
            content = data[start + 4 : min(stop, start + 4 + least)]
            if marker == kind and content.startswith(name) and len(content) < least:
                short.append(start + 1)
    if not short:
        return data
    changed = bytearray(data)
    for place in short:
        changed[place] = _COMMENT
    return bytes(changed)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
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


def _without_exif(data: bytes) -> bytes:
    """Return an AVIF file whose EXIF has become an item of an unknown type."""
    changed = bytearray(data)
    for start, stop in boxes(data, b"meta"):
        changed[start:stop] = _EXIF_ITEM.sub(rb"\1none", data[start:stop])
    return bytes(changed)


def _in_native_order(args: Any) -> Any:
    order, *rest = args
    return (_NATIVE_ORDERS.get(order, order), *rest)
