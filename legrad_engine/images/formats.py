"""Accepted picture formats: how each is recognised, and the reader of its files."""

import re
from collections.abc import Callable
from typing import IO

from PIL import BmpImagePlugin, Image, ImageFile, PpmImagePlugin

from legrad_engine.errors import ImageDecodeError
from legrad_engine.images.gif import GifFile
from legrad_engine.images.heif import HeifFile
from legrad_engine.images.png import PngFile
from legrad_engine.images.readers import AvifFile, JpegFile, TiffFile, WebpFile
from legrad_engine.images.slow_formats import (
    NETPBM_HEAD_BYTES,
    check_jpeg,
    check_netpbm,
    check_plain_netpbm,
)

ACCEPTED = "JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP, TIFF or PPM"
# Enough for the list of brands at the start of AVIF and HEIC files.
HEAD_BYTES = 256

Reader = Callable[[IO[bytes]], ImageFile.ImageFile]

# Image.open is not used: its pixel limit is global to the process, it warns of images that the
# caller's limit allows, and it tries every format that Pillow knows. Its plugins tell their files.
_READERS: dict[str, Reader] = {
    "JPEG": JpegFile,
    "PNG": PngFile,
    "WEBP": WebpFile,
    "GIF": GifFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

SUFFIXES = frozenset(
    {suffix for suffix, name in Image.EXTENSION.items() if name in {*_READERS, "AVIF"}}
    | {".heic", ".heics", ".heif", ".heifs", ".hif"}
)
"""Ends of the names of files in accepted formats, in lower case."""

# How Pillow and the decoders below it say that a file may be whole and is still not for them.
_UNSUPPORTED = re.compile(
    r"unsupported|not (yet )?(supported|implemented)|cannot handle|unknown (pixel|raw) mode"
    r"|unknown data organization|samples per pixel|no codec",
    re.IGNORECASE,
)


def recognise(head: bytes) -> str | None:
    """Return the name of the accepted format that a file has; None if it has none.

    Args:
        head: the first HEAD_BYTES bytes of the file, or all if it has fewer.
    """
    brands = _brands(head)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIF"
    return next((name for name in _READERS if _accepts(name, head)), None)


def open_picture(stream: IO[bytes]) -> ImageFile.ImageFile:
    """Open a picture by its content, without decoding its pixels.

    Raises:
        ImageDecodeError: the file is empty, has no accepted format, or would take long to decode.
        Exception: the reader's own, of nearly any type, for a damaged or unsupported file.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if not head:
        raise ImageDecodeError(f"The image is empty: send a {ACCEPTED} file.", field="image")
    name = recognise(head)
    if name is None:
        raise ImageDecodeError(
            f"The data is not an image in an accepted format: send a {ACCEPTED} file.",
            field="image",
        )
    if name == "AVIF":
        return AvifFile(stream)
    if name == "HEIF":
        return HeifFile(stream)
    if name == "JPEG":
        check_jpeg(stream.read())
    elif name == "PPM":
        check_netpbm(stream.read(NETPBM_HEAD_BYTES))
        stream.seek(0)
        if head.startswith((b"P1", b"P2", b"P3")):
            check_plain_netpbm(stream.read())
    stream.seek(0)
    return _READERS[name](stream)


def unreadable(error: Exception) -> ImageDecodeError:
    """Return the refusal of a picture whose reader has failed."""
    reason = str(error) or type(error).__name__
    if _UNSUPPORTED.search(reason):
        return ImageDecodeError(
            f"The image is of a kind of its format that is not supported ({reason}): save it as "
            "8-bit PNG or JPEG.",
            field="image",
        )
    return ImageDecodeError(
        f"The image is truncated or damaged ({reason}): check that the whole file was sent, or "
        "save it again.",
        field="image",
    )


def _accepts(name: str, head: bytes) -> bool:
    accept = Image.OPEN[name][1]
    return accept is not None and accept(head) is True


def _brands(head: bytes) -> set[bytes]:
    """Return the brands of a file in the ISO base media format; none for other files."""
    if head[4:8] != b"ftyp":
        return set()
    # The major brand and its version, and then the compatible brands.
    names = head[8 : max(16, int.from_bytes(head[:4], "big"))]
    return {names[:4], *(names[start : start + 4] for start in range(8, len(names), 4))}
