"""Drawing and encoding the maps of one picture. A function for the picture workers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.explanation import Explanation
from legrad_engine.images.geometry import drawing_size, upsample
from legrad_engine.images.regions import Region, find_regions
from legrad_engine.images.rendering import encode_npy, encode_png, normalize, overlay
from legrad_engine.images.statistics import Statistics, summarize
from service.errors import NotFiniteError
from service.schemas.requests import OutputOptions


@dataclass(frozen=True, slots=True)
class DrawnTarget:
    """The map of one target, and everything made of it.

    Attributes:
        map: float32 ``[rows, columns]``, the raw map over the patch grid.
        heatmap: the heatmap as PNG or npy file, or None.
        overlay: the overlay as PNG file, or None.
        regions: regions above the threshold, or None where none were asked for.
        statistics: numbers that describe the map.
    """

    map: NDArray[np.floating]
    heatmap: bytes | None
    overlay: bytes | None
    regions: Sequence[Region] | None
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """The drawn targets of one picture, and the seconds that drawing took."""

    targets: Sequence[DrawnTarget]
    seconds: float


def draw(
    explanation: Explanation, canvas: Image.Image | None, output: OutputOptions
) -> DrawnImage:
    """Draw and describe every target of a picture.

    Args:
        explanation: the picture's maps.
        canvas: the upright picture in RGB at its
            :func:`~legrad_engine.images.geometry.drawing_size`; None without an overlay.
        output: the wanted pictures and numbers.

    Raises:
        NotFiniteError: the maps or similarities are not finite.
    """
    began = time.perf_counter()
    if not (np.isfinite(explanation.maps).all() and np.isfinite(explanation.similarities).all()):
        raise NotFiniteError(
            "The model's numbers overflow for this picture or target: ask its operator to serve it "
            "in float32, or bfloat16 in place of float16 (LEGRAD_DTYPE)."
        )
    as_png = output.heatmap in ("png", "png16")
    geometry = explanation.geometry
    heatmaps = None
    if as_png or output.overlay:
        size = drawing_size(geometry.image_size, output.max_side)
        heatmaps = normalize(upsample(explanation.maps, geometry, size), output.normalize)
    targets = []
    for index, raw in enumerate(explanation.maps):
        heatmap = drawn = None
        if heatmaps is not None and as_png:
            heatmap = encode_png(heatmaps[index], 16 if output.heatmap == "png16" else 8)
        elif output.heatmap == "npy":
            heatmap = encode_npy(raw)
        if heatmaps is not None and canvas is not None:
            drawn = encode_png(overlay(canvas, heatmaps[index], output.colormap, output.alpha))
        regions = None
        if output.regions_threshold is not None:
            regions = find_regions(raw, geometry, output.regions_threshold)
        targets.append(DrawnTarget(raw, heatmap, drawn, regions, summarize(raw, geometry)))
    return DrawnImage(targets, time.perf_counter() - began)


def drawings_of_each_target(output: OutputOptions) -> int:
    """Return the number of full-size pictures in an answer for each target."""
    return (output.heatmap in ("png", "png16")) + output.overlay
