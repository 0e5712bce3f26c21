"""Decoding and fitting one picture. A function for the picture workers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from legrad_engine.images.decoding import PreparedImage, decode
from legrad_engine.images.geometry import Geometry, drawing_size


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """The parts of a decoded picture that later steps need.

    Attributes:
        geometry: how the patch grid maps to the picture.
        prepared: the picture as model input, or None if its geometry was known before.
        canvas: the picture in RGB at the size of its overlay, or None where none was asked for.
        seconds: time of decoding.
    """

    geometry: Geometry
    prepared: PreparedImage | None
    canvas: Image.Image | None
    seconds: float


def decode_picture(
    encoded: bytes,
    max_pixels: int,
    fit: Callable[[Image.Image], PreparedImage],
    geometry: Geometry | None,
    max_side: int | None,
) -> DecodedPicture:
    """Decode a picture once for the model and for its overlay.

    Args:
        encoded: the picture's bytes.
        max_pixels: most pixels of a picture.
        fit: fits the upright picture to the model.
        geometry: the picture's geometry, if it was fitted before; it is not fitted again.
        max_side: longest side of the overlay in pixels, or None for no overlay.

    Raises:
        LegradError: see :func:`legrad_engine.images.decoding.decode` and ``fit``.
    """
    began = time.perf_counter()
    upright = decode(encoded, max_pixels=max_pixels)
    prepared = canvas = None
    if geometry is None:
        prepared = fit(upright)
        geometry = prepared.geometry
    if max_side is not None:
        # The queue holds this canvas, not the whole picture, which may be much larger.
        size = drawing_size(upright.size, max_side)
        canvas = upright.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return DecodedPicture(geometry, prepared, canvas, time.perf_counter() - began)
