"""Decoding and fitting one picture. A function for the picture workers."""

import time
from dataclasses import dataclass

from PIL import Image

from legrad_engine.images.decoding import LeastSize, Versions, decode_versions
from legrad_engine.images.geometry import Geometry, drawing_size
from legrad_engine.images.inputs import InputRules, PreparedImage
from service.settings.values import DecodingName, PictureRules

# Hamming is about as sharp as bicubic where pictures become smaller, in two thirds of the time.
_CANVAS_FILTERS: dict[DecodingName, Image.Resampling] = {
    "fast": Image.Resampling.HAMMING,
    "exact": Image.Resampling.BICUBIC,
}


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
    rules: PictureRules,
    input_rules: InputRules,
    geometry: Geometry | None,
    max_side: int | None,
) -> DecodedPicture:
    """Decode a picture once for the model and for its overlay.

    Args:
        encoded: the picture's bytes.
        rules: how pictures are decoded.
        input_rules: how the upright picture is fitted to the model.
        geometry: the picture's geometry, if it was fitted before; it is not fitted again.
        max_side: longest side of the overlay in pixels, or None for no overlay.

    Raises:
        LegradError: see :func:`legrad_engine.images.decoding.decode` and
            :meth:`InputRules.prepare`.
    """
    began = time.perf_counter()
    prepared = canvas = versions = None
    if geometry is None:
        versions = _decode(encoded, rules, input_rules.least_size)
        for_model = versions.srgb if rules.srgb_for_model else versions.stored
        prepared = input_rules.prepare(for_model, versions.full_size)
        geometry = prepared.geometry
    if max_side is not None:
        size = drawing_size(geometry.image_size, max_side)
        if versions is None or any(map(int.__lt__, versions.srgb.size, size)):
            # Decoded again and not larger at once: the model's input must not depend on overlays.
            del versions
            versions = _decode(encoded, rules, lambda _: size)
        # The queue holds this canvas, not the whole picture, which may be much larger.
        canvas = versions.srgb.resize(size, _CANVAS_FILTERS[rules.decoding], reducing_gap=2.0)
    return DecodedPicture(geometry, prepared, canvas, time.perf_counter() - began)


def _decode(encoded: bytes, rules: PictureRules, least_size: LeastSize) -> Versions:
    return decode_versions(
        encoded,
        with_stored=not rules.srgb_for_model,
        least_size=least_size if rules.decoding == "fast" else None,
        max_pixels=rules.max_pixels,
    )
