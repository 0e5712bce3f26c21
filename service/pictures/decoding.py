"""Decoding and fitting one picture. A function for the picture workers."""

import time
from dataclasses import dataclass

from PIL import Image

from legrad_engine.images.decoding import decode, decode_with_stored
from legrad_engine.images.geometry import Geometry, drawing_size
from legrad_engine.images.inputs import InputRules, PreparedImage
from service.settings.values import PictureRules


@dataclass(frozen=True, slots=True)
class PictureVersions:
    """An upright picture in RGB, in the colours for people and in those for the model.

    Attributes:
        for_overlay: in sRGB.
        for_model: the same object unless the rules and an ICC profile make another one.
    """

    for_overlay: Image.Image
    for_model: Image.Image


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


def decode_versions(encoded: bytes, rules: PictureRules) -> PictureVersions:
    """Decode a picture for people and for the model.

    Args:
        encoded: the picture's bytes.
        rules: how pictures are decoded.

    Raises:
        LegradError: see :func:`legrad_engine.images.decoding.decode`.
    """
    if rules.srgb_for_model:
        picture = decode(encoded, max_pixels=rules.max_pixels)
        return PictureVersions(picture, picture)
    return PictureVersions(*decode_with_stored(encoded, max_pixels=rules.max_pixels))


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
    versions = decode_versions(encoded, rules)
    prepared = canvas = None
    if geometry is None:
        prepared = input_rules.prepare(versions.for_model)
        geometry = prepared.geometry
    if max_side is not None:
        # The queue holds this canvas, not the whole picture, which may be much larger.
        size = drawing_size(versions.for_overlay.size, max_side)
        canvas = versions.for_overlay.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return DecodedPicture(geometry, prepared, canvas, time.perf_counter() - began)
