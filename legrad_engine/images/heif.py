"""HEIC and HEIF pictures, if the package pillow-heif (extra `heif`) is installed."""

import importlib
import math
import re
import struct
from collections.abc import Iterator
from typing import Any

from PIL import ImageFile

from legrad_engine.errors import ImageDecodeError

_THREADS = 4
# The entry of an item in the list of items, up to the item's type.
_OVERLAY_ITEM = re.compile(rb"infe.{8,10}?iovl", re.DOTALL)


class HeifFile(ImageFile.ImageFile):
    """The primary picture of a HEIF file, upright, 8 bits for each channel.

    pillow-heif's own reader copies the metadata of all pictures of a file, so that a small file of
    a thousand pictures with the same metadata fills the memory. This one reads no metadata:
    rotation and mirroring are properties of the picture itself, which the decoder applies, and
    EXIF only repeats them.
    """

    format = "HEIF"
    format_description = "HEIF, HEIC"

    largest_part: tuple[int, int]
    """(width, height) in pixels of the largest picture that the file declares, before cropping."""

    _picture: Any

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        _check_overlays(data)
        self.largest_part = max(_declared_sizes(data), key=math.prod, default=(0, 0))
        to_8_bits, as_bgr, without_stride, to_16_bits, unlimited = True, False, False, True, False
        pictures, _ = _decoder().load_file(
            data, _THREADS, to_8_bits, as_bgr, without_stride, to_16_bits, "", unlimited
        )
        self._picture = next(each for each in pictures if each is not None and each.primary)
        self._size, self._mode = self._picture.size_mode
        profile = self._picture.color_profile
        if profile and profile["type"] in ("rICC", "prof"):
            self.info["icc_profile"] = profile["data"]
        self.tile = []

    def load(self) -> Any:
        """Decode the picture."""
        if self._picture is not None:
            data, stride = self._picture.data, self._picture.stride
            self._size, self._mode = self._picture.size_mode
            self._picture = None
            self.load_prepare()
            self.frombytes(data, "raw", (self.mode, stride))
        return super().load()


def _check_overlays(data: bytes) -> None:
    """Refuse pictures that are composed of others, of which a small file may have any number."""
    for start, stop in boxes(data, b"meta"):
        if _OVERLAY_ITEM.search(data, start, stop):
            raise ImageDecodeError(
                "The HEIC image is an overlay of other images, which is not supported: save it as "
                "JPEG or PNG.",
                field="image",
            )


def _declared_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (width, height) of every picture that the metadata of a file declares (box ispe)."""
    for start, stop in boxes(data, b"meta"):
        for found in re.finditer(b"ispe", data[start:stop]):
            size = int.from_bytes(data[start + found.start() - 4 : start + found.start()], "big")
            # After the name a longer size, if there is one, and then version and flags.
            position = start + found.end() + (8 if size == 1 else 0) + 4
            if position + 8 <= len(data):
                yield struct.unpack_from(">II", data, position)


def boxes(data: bytes, name: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the boxes of a name start and stop in a file of the ISO base media format.

    Boxes within other boxes are left out.
    """
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        stop = len(data) if size < 8 else position + size
        if data[position + 4 : position + 8] == name:
            yield position, stop
        position = stop


def _decoder() -> Any:
    try:
        return importlib.import_module("_pillow_heif")
    except ImportError as error:
        raise ImageDecodeError(
            "The image is HEIC or HEIF, which this installation cannot read: send JPEG, or "
            "install the extra `heif` (pip install 'legrad-service[heif]').",
            field="image",
        ) from error
