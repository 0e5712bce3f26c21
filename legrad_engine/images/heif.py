"""HEIC and HEIF pictures, if the package pillow-heif (extra `heif`) is installed."""

import importlib
from typing import Any

from PIL import ImageFile

from legrad_engine.errors import ImageDecodeError
from legrad_engine.images.bitstreams import Size
from legrad_engine.images.containers import Parts, parts_of
from legrad_engine.images.memory import enough_to_decode

# The other cores have pictures of their own, and each thread would count as memory of this one.
_THREADS = 1
# Bytes of the decoder's own, as measured by limiting memory.
_PIXEL_BYTES, _PICTURE_BYTES = 8, 2**23


class HeifFile(ImageFile.ImageFile):
    """The primary picture of a HEIF file, upright, 8 bits for each channel.

    pillow-heif's own reader copies the metadata of all pictures of a file, so that a small file of
    a thousand pictures with the same metadata fills the memory. This one reads no metadata:
    rotation and mirroring are properties of the picture itself, which the decoder applies, and
    EXIF only repeats them.
    """

    format = "HEIF"
    format_description = "HEIF, HEIC"

    parts: Parts
    """Sizes that the file states."""

    _picture: Any

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        self.parts = parts_of(data)
        _check_overlays(self.parts)
        to_8_bits, as_bgr, without_stride, to_16_bits, unlimited = True, False, False, True, False
        decoder = _decoder()
        with enough_to_decode(self._decoder_bytes((0, 0))):
            pictures, _ = decoder.load_file(
                data, _THREADS, to_8_bits, as_bgr, without_stride, to_16_bits, "", unlimited
            )
        self._picture = next(each for each in pictures if each is not None and each.primary)
        self._size, self._mode = self._picture.size_mode
        profile = self._picture.color_profile
        if profile and profile["type"] in ("rICC", "prof"):
            self.info["icc_profile"] = profile["data"]
        self.tile = []

    def _decoder_bytes(self, size: Size) -> int:
        return _PIXEL_BYTES * self.parts.most_pixels(size) + _PICTURE_BYTES

    def load(self) -> Any:
        """Decode the picture."""
        if self._picture is not None:
            with enough_to_decode(self._decoder_bytes(self.size)):
                data, stride = self._picture.data, self._picture.stride
            self._size, self._mode = self._picture.size_mode
            self._picture = None
            self.load_prepare()
            self.frombytes(data, "raw", (self.mode, stride))
        return super().load()


def _check_overlays(parts: Parts) -> None:
    """Refuse pictures that are composed of others, of which a small file may have any number."""
    if b"iovl" in parts.kinds:
        raise ImageDecodeError(
            "The HEIC image is an overlay of other images, which is not supported: save it as JPEG "
            "or PNG.",
            field="image",
        )


def _decoder() -> Any:
    try:
        return importlib.import_module("_pillow_heif")
    except ImportError as error:
        raise ImageDecodeError(
            "The image is HEIC or HEIF, which this installation cannot read: send JPEG, or "
            "install the extra `heif` (pip install 'legrad-service[heif]').",
            field="image",
        ) from error
