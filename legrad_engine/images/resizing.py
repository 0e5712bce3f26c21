"""Resizing of pictures by Pillow's filters: exactly, or in a fifth of the time."""

import mmap
from collections.abc import Callable, Iterator

from PIL import Image

from legrad_engine.models.preprocessing import Interpolation

try:
    import cykooz_resizer as vectorised
except ImportError:
    # It has no wheel for Linux on ARM; there everything is resized exactly.
    vectorised = None

Resize = Callable[[Image.Image, tuple[int, int], Interpolation], Image.Image]
"""Resizes an RGB picture to (width, height)."""

_EXACT: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_FAST: dict[Interpolation, str] = {
    "box": "box",
    "bilinear": "bilinear",
    "bicubic": "catmull_rom",
    "lanczos": "lanczos3",
}

# Pillow stores a pixel of an RGB picture in four bytes.
_BYTES_PER_PIXEL = 4
# A band of a picture is in memory three times while it is resized.
_BAND_BYTES = 2**22
# A strip of extreme length would take more memory between the two steps than Pillow's.
_MOST_NARROWED_BYTES = 2**26


def resize_exactly(
    picture: Image.Image, size: tuple[int, int], interpolation: Interpolation
) -> Image.Image:
    """Resize a picture as torchvision and the models' own pipelines do.

    Args:
        picture: RGB.
        size: (width, height) in pixels.
        interpolation: the filter.
    """
    return picture.resize(size, _EXACT[interpolation])


def resize_fast(
    picture: Image.Image, size: tuple[int, int], interpolation: Interpolation
) -> Image.Image:
    """Resize a picture by vector instructions.

    One value in a hundred differs from that of :func:`resize_exactly`, by a level or two. Filters
    that the library lacks are exact.

    Args:
        picture: RGB.
        size: (width, height) in pixels.
        interpolation: the filter.

    Raises:
        MemoryError: there is not enough memory.
    """
    width = size[0]
    narrowed_bytes = width * picture.height * _BYTES_PER_PIXEL
    is_fast = vectorised is not None and interpolation in _FAST and picture.size != size
    if not is_fast or narrowed_bytes > _MOST_NARROWED_BYTES:
        return resize_exactly(picture, size, interpolation)
    # Widths first, as in Pillow: values between the steps are rounded, so that in the other order
    # every fourth value would differ.
    step = _Step(_FAST[interpolation])
    narrowed = b"".join(
        step.resized(band.tobytes("raw", "RGBX"), band.size, (width, band.height))
        for band in _bands(picture)
    )
    pixels = step.resized(narrowed, (width, picture.height), size)
    return Image.frombytes("RGB", size, pixels, "raw", "RGBX")


class _Step:
    """Resizes pixels of four bytes along one side."""

    def __init__(self, kernel: str) -> None:
        algorithm = vectorised.ResizeAlg.convolution(vectorised.FilterType[kernel])
        self._options = vectorised.ResizeOptions(algorithm, use_alpha=False)
        self._resizer = vectorised.Resizer()

    def resized(self, pixels: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
        if old == new:
            return pixels
        _require(len(pixels) + 2 * new[0] * new[1] * _BYTES_PER_PIXEL)
        source = vectorised.ImageData(*old, vectorised.PixelType.U8x4, pixels)
        result = vectorised.ImageData(*new, vectorised.PixelType.U8x4)
        self._resizer.resize(source, result, self._options)
        resized: bytes = result.get_buffer()
        return resized


def _require(nbytes: int) -> None:
    """Raise MemoryError if there is no address space of this size.

    The library ends the process where it gets no memory.
    """
    try:
        mmap.mmap(-1, nbytes).close()
    except OSError as error:
        raise MemoryError(f"no {nbytes} bytes to resize a picture") from error


def _bands(picture: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, _BAND_BYTES // (_BYTES_PER_PIXEL * picture.width))
    if rows >= picture.height:
        yield picture
        return
    for top in range(0, picture.height, rows):
        yield picture.crop((0, top, picture.width, min(picture.height, top + rows)))
