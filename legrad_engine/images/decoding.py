"""Decoding of a picture, and its preparation as the pixels of a model input."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError
from legrad_engine.images.arrays import picture_of
from legrad_engine.images.geometry import Geometry
from legrad_engine.images.slow_formats import check_jpeg, check_plain_netpbm
from legrad_engine.models.preprocessing import Interpolation, Preprocessing

DEFAULT_MAX_PIXELS = 64_000_000

ImageSource = Image.Image | NDArray[np.generic] | bytes | str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Picture that is ready to be a model input.

    Attributes:
        pixels: float32 ``[3, height, width]``, resized and normalised.
        geometry: mapping from the patch grid back to the picture.
    """

    pixels: NDArray[np.float32]
    geometry: Geometry


# Pillow keeps an address for each row, and resizing more for each row and column: a strip one pixel
# wide takes ten times the memory of a square with as many pixels.
_LONGEST_SIDE = 1_000_000

_ACCEPTED = "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM"

# Files are opened by their signature instead of by Image.open: its pixel limit is global to the
# process, and it warns of images that the caller's limit allows.
_READERS: tuple[tuple[int, bytes, type[ImageFile.ImageFile]], ...] = (
    (0, b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (0, b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (8, b"WEBP", WebPImagePlugin.WebPImageFile),
    (4, b"ftypavi", AvifImagePlugin.AvifImageFile),
    (0, b"GIF8", GifImagePlugin.GifImageFile),
    (0, b"BM", BmpImagePlugin.BmpImageFile),
    (0, b"II*\0", TiffImagePlugin.TiffImageFile),
    (0, b"MM\0*", TiffImagePlugin.TiffImageFile),
    *((0, b"P%d" % kind, PpmImagePlugin.PpmImageFile) for kind in range(1, 7)),
)

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Read a picture as upright 8-bit RGB.

    The content decides the format, not the file's name. EXIF orientation is applied. Alpha is
    composited over white. Grey and float images deeper than 8 bits are scaled, not clipped. The
    first frame of an animation or a multi-page file is read.

    Args:
        source: A Pillow image (at its current frame), an array as in
            :func:`legrad_engine.images.arrays.picture_of`, an encoded file, or the path of one.
        max_pixels: Largest accepted width x height, checked before pixels are decoded.

    Raises:
        ImageTooLargeError: The picture has more than max_pixels, or a side of more than a million.
        ImageDecodeError: The file cannot be read, or does not hold a whole picture in an accepted
            format.
    """
    if isinstance(source, Image.Image):
        return _to_upright_rgb(source, max_pixels)
    if isinstance(source, np.ndarray):
        return _to_upright_rgb(picture_of(source), max_pixels)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), max_pixels)
    try:
        with Path(source).open("rb") as stream:
            return _read(stream, max_pixels)
    except (OSError, ValueError) as error:
        raise ImageDecodeError(
            f"The image file {os.fspath(source)!r} cannot be opened ({error}): check the path.",
            field="image",
        ) from error


def to_pixels(
    image: Image.Image, geometry: Geometry, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Resize and normalise a decoded picture into the model input that the geometry describes.

    The result equals torchvision's ``Resize``, ``ToTensor`` and ``Normalize`` bit for bit. Padding
    has the fill colour of the preprocessing; without one it is 0, the mean colour.

    Args:
        image: RGB, of size ``geometry.image_size``.
        geometry: The geometry of this picture.
        preprocessing: The model's own; its ``resize_mode`` is not used.

    Returns:
        float32 [3, input height, input width].
    """
    if image.size != geometry.image_size:
        raise ValueError(f"geometry is for {geometry.image_size} pixels, image has {image.size}")
    left, top, right, bottom = geometry.content_box
    resized = image.resize((right - left, bottom - top), _FILTERS[preprocessing.interpolation])
    mean = np.array(preprocessing.mean, np.float32).reshape(3, 1, 1)
    std = np.array(preprocessing.std, np.float32).reshape(3, 1, 1)
    width, height = geometry.input_size
    pixels = np.zeros((3, height, width), np.float32)
    if preprocessing.fill_color is not None and (width, height) != resized.size:
        fill = np.array(preprocessing.fill_color, np.float32).reshape(3, 1, 1)
        pixels[:] = (fill / 255 - mean) / std
    content = pixels[:, top:bottom, left:right]
    np.divide(np.asarray(resized).transpose(2, 0, 1), 255, out=content, dtype=np.float32)
    content -= mean
    content /= std
    return pixels


def _read(stream: BinaryIO, max_pixels: int) -> Image.Image:
    head = stream.read(16)
    stream.seek(0)
    if not head:
        raise ImageDecodeError(f"The image is empty: send a {_ACCEPTED} file.", field="image")
    readers = (
        reader for offset, signature, reader in _READERS if head.startswith(signature, offset)
    )
    reader = next(readers, None)
    if reader is None:
        raise ImageDecodeError(
            f"The data is not an image in an accepted format: send a {_ACCEPTED} file.",
            field="image",
        )
    if reader is JpegImagePlugin.JpegImageFile:
        check_jpeg(stream.read())
    elif head.startswith((b"P1", b"P2", b"P3")):
        check_plain_netpbm(stream.read())
    stream.seek(0)
    try:
        with reader(stream) as image:
            return _to_upright_rgb(image, max_pixels)
    except Image.DecompressionBombError as error:
        raise _too_large("The image has too many pixels", max_pixels) from error
    except (ImageDecodeError, ImageTooLargeError):
        raise
    except Exception as error:
        raise _damaged(error) from error


def _to_upright_rgb(image: Image.Image, max_pixels: int) -> Image.Image:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, max_pixels)
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
    # On hostile bytes Pillow's readers raise exceptions of nearly any type, from struct.error to
    # ZeroDivisionError; all of them mean that the picture cannot be read.
    try:
        image.load()
        rgb = _to_rgb(image)
    except Exception as error:
        raise _damaged(error) from error
    method = _UPRIGHT.get(_orientation(image))
    upright = rgb if method is None else rgb.transpose(method)
    # An orientation left in the metadata would rotate the picture again when it is decoded again.
    upright.info.clear()
    return upright


def _check_tiles(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """Refuse tiles beyond the pixel limit: a tile is decoded whole, even if it is mostly empty."""
    width, height = (
        image.tag_v2.get(tag, 1) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength)
    )
    if isinstance(width, int) and isinstance(height, int) and width * height > max_pixels:
        raise _too_large(f"The image has tiles of {width} x {height} pixels", max_pixels)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Damaged metadata is common and does not affect the pixels.
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_deep(np.asarray(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep(values: NDArray[np.generic]) -> Image.Image:
    """Scale by the smallest usual full scale above the values; stretch their range if none is."""
    full_scales = (65535,) if np.issubdtype(values.dtype, np.integer) else (1, 255, 65535)
    shades = np.array(values, np.float32)
    np.nan_to_num(shades, copy=False, nan=0, posinf=0, neginf=0)
    black, white = float(shades.min()), float(shades.max())
    for full_scale in full_scales:
        if black >= 0 and white <= full_scale:
            black, white = 0, full_scale
            break
    with np.errstate(over="ignore"):
        shades -= black
        shades *= 255 / max(white - black, 1e-30)
    levels = np.rint(np.clip(shades, 0, 255, out=shades), out=shades).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def _too_large(finding: str, max_pixels: int) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"{finding}; the limit is {max_pixels} pixels: send a smaller picture.",
        field="image",
    )


def _damaged(error: Exception) -> ImageDecodeError:
    return ImageDecodeError(
        f"The image is truncated or damaged ({str(error) or type(error).__name__}): "
        "check that the whole file was sent, or save it again.",
        field="image",
    )
