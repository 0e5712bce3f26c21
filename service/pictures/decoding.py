"""Decoding and fitting one picture. A function for the picture workers."""

import time
from dataclasses import dataclass
from functools import partial

from PIL import Image

from legrad_engine.images.cropping import PixelBox, check_region, crop, size_for_region
from legrad_engine.images.decoding import LeastSize, Versions, decode_versions
from legrad_engine.images.file_formats import DEFAULT_MAX_SIDE
from legrad_engine.images.geometry import Box, Geometry, drawing_size
from legrad_engine.images.inputs import InputRules, PreparedImage
from legrad_engine.images.resizing import Resize, resize_exactly, resize_fast
from service.settings.values import DecodingName, PictureRules

_RESIZE: dict[DecodingName, Resize] = {"fast": resize_fast, "exact": resize_exactly}


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
    box: PixelBox | None = None,
) -> DecodedPicture:
    """Decode a picture once for the model and for its overlay.

    Args:
        encoded: the picture's bytes.
        rules: how pictures are decoded.
        input_rules: how the upright picture is fitted to the model.
        geometry: the picture's geometry, if it was fitted before; it is not fitted again.
        max_side: longest side of the overlay in pixels, or None for no overlay.
        box: the region that is the model's input; None for the whole picture.

    Raises:
        InvalidTargetError: the box is no region of the picture.
        LegradError: see :func:`legrad_engine.images.decoding.decode` and
            :meth:`InputRules.prepare`.
    """
    began = time.perf_counter()
    resize = _RESIZE[rules.decoding]
    prepared = canvas = versions = None
    if box is not None:
        prepared = _prepare_region(encoded, rules, input_rules, box, resize)
        return DecodedPicture(prepared.geometry, prepared, None, time.perf_counter() - began)
    if geometry is None:
        versions = _decode(encoded, rules, partial(_enough, input_rules))
        for_model = versions.srgb if rules.srgb_for_model else versions.stored
        prepared = input_rules.prepare(for_model, versions.full_size, resize, versions.shown)
        geometry = prepared.geometry
    if max_side is not None:
        size = drawing_size(geometry.image_size, max_side)
        if versions is None or not _covers(versions.shown, size):
            del versions
            versions = _decode(encoded, rules, partial(_enough, input_rules, drawn=size))
        # The queue holds this canvas, not the whole picture, which may be much larger.
        canvas = resize(versions.srgb, size, "bicubic", versions.shown)
    return DecodedPicture(geometry, prepared, canvas, time.perf_counter() - began)


def _prepare_region(
    encoded: bytes, rules: PictureRules, input_rules: InputRules, box: PixelBox, resize: Resize
) -> PreparedImage:
    left, top, right, bottom = box
    size = right - left, bottom - top

    def enough(image_size: tuple[int, int]) -> tuple[int, int]:
        if min(size) <= 0:
            return image_size
        return size_for_region(box, image_size, input_rules.least_size(size))

    versions = _decode(encoded, rules, enough)
    height, width = input_rules.patch_size
    check_region(box, versions.full_size, (width, height))
    picture = versions.srgb if rules.srgb_for_model else versions.stored
    region, shown = crop(picture, versions.shown, box, versions.full_size)
    return input_rules.prepare(region, size, resize, shown)


def _enough(
    input_rules: InputRules, image_size: tuple[int, int], *, drawn: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """Return the (width, height) that is enough for the model and for an overlay by default.

    The model's input must not depend on the overlay that is asked for: one that is larger makes the
    picture decoded again. Nor must an overlay depend on whether the model's input is needed.

    Args:
        input_rules: how the picture is fitted to the model.
        image_size: (width, height) of the picture.
        drawn: (width, height) of the overlay that is asked for.
    """
    for_model = input_rules.least_size(image_size)
    by_default = drawing_size(image_size, DEFAULT_MAX_SIDE)
    width, height = (max(sides) for sides in zip(for_model, by_default, drawn, strict=True))
    return width, height


def _covers(shown: Box, size: tuple[int, int]) -> bool:
    """Return whether a picture has at least as many pixels as a drawing along each side."""
    left, top, right, bottom = shown
    return right - left >= size[0] and bottom - top >= size[1]


def _decode(encoded: bytes, rules: PictureRules, least_size: LeastSize) -> Versions:
    return decode_versions(
        encoded,
        with_stored=not rules.srgb_for_model,
        least_size=least_size if rules.decoding == "fast" else None,
        max_pixels=rules.max_pixels,
    )
