"""Encoding of pictures as files."""

import io
from typing import Literal, get_args

from PIL import Image

from legrad_engine.images.rendering import encode_png

PictureFormat = Literal["jpeg", "webp", "png"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
DEFAULT_QUALITY = 85

HeatmapFormat = Literal["png", "png16", "npy", "none"]


def encode_picture(
    picture: Image.Image, format: PictureFormat, quality: int = DEFAULT_QUALITY
) -> bytes:
    """Encode an RGB or grey picture.

    Args:
        picture: the picture.
        format: ``jpeg`` and ``webp`` lose detail; ``png`` loses nothing.
        quality: 1 to 100, for ``jpeg`` and ``webp``.
    """
    if format == "png":
        return encode_png(picture)
    buffer = io.BytesIO()
    picture.save(buffer, format, quality=quality)
    return buffer.getvalue()
