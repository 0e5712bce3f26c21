"""Pillow's readers of JPEG, AVIF and TIFF, without their refusal of pictures for their metadata."""

import io
import re
from typing import Any

from PIL import AvifImagePlugin, Image, JpegImagePlugin, TiffImagePlugin

from legrad_engine.images.containers import Parts, metadata_ranges, parts_of

_COMMENT, _START_OF_SCAN, _FIRST_WITH_LENGTH = 0xFE, 0xDA, 0xC0
# Segments that Pillow reads up to this length without asking for theirs.
_LEAST_BYTES = {(0xE0, b"JFIF"): 7, (0xE2, b"ICC_PROFILE\0"): 14, (0xEE, b"Adobe"): 7}

# The entry of an item in the list of items, up to the item's type.
_EXIF_ITEM = re.compile(rb"(infe.{8,10}?)Exif", re.DOTALL)

_NATIVE_ORDERS = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}


class JpegFile(JpegImagePlugin.JpegImageFile):
    """JPEG whose application segments may be too short."""

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        self.fp = io.BytesIO(_without_short_segments(data))
        super()._open()


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
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == _START_OF_SCAN or marker < _FIRST_WITH_LENGTH:
            break
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        for (kind, name), least in _LEAST_BYTES.items():
            content = data[position + 4 : min(stop, position + 4 + least)]
            if marker == kind and content.startswith(name) and len(content) < least:
                short.append(position + 1)
        position = stop
    if not short:
        return data
    changed = bytearray(data)
    for place in short:
        changed[place] = _COMMENT
    return bytes(changed)


def _without_exif(data: bytes) -> bytes:
    """Return an AVIF file whose EXIF has become an item of an unknown type."""
    changed = bytearray(data)
    for start, stop in metadata_ranges(data):
        changed[start:stop] = _EXIF_ITEM.sub(rb"\1none", data[start:stop])
    return bytes(changed)


def _in_native_order(args: Any) -> Any:
    order, *rest = args
    return (_NATIVE_ORDERS.get(order, order), *rest)
