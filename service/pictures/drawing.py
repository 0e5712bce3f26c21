"""Drawing and encoding the maps of one picture. A function for the picture workers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.images.encoding import (
    DEFAULT_QUALITY,
    HeatmapFormat,
    PictureFormat,
    encode_npy,
    encode_picture,
    encode_png,
)
from legrad_engine.images.geometry import Geometry, drawing_size, upsample
from legrad_engine.images.regions import Region, find_regions
from legrad_engine.images.rendering import (
    Normalization,
    normalize,
    overlay,
    to_levels,
)
from legrad_engine.images.statistics import Statistics, summarize


@dataclass(frozen=True, slots=True)
class DrawingRules:
    """The wanted pictures and numbers: a small value that other processes can use.

    Attributes:
        heatmap: format of heatmaps.
        overlay: whether overlays are drawn.
        colormap: colours of overlays.
        alpha: opacity of the colours, 0 to 1.
        normalize: normalisation of heatmaps and overlays.
        regions_threshold: threshold of regions, above 0 and below 1; None for no regions.
        max_side: longest side of heatmaps and overlays in pixels.
        format: format of overlays.
        quality: quality of JPEG and WebP, 1 to 100.
    """

    heatmap: HeatmapFormat
    overlay: bool
    colormap: str
    alpha: float
    normalize: Normalization
    regions_threshold: float | None
    max_side: int
    format: PictureFormat = "jpeg"
    quality: int = DEFAULT_QUALITY

    @property
    def drawings_of_each_target(self) -> int:
        """The number of full-size pictures for each target."""
        return self.draws_heatmaps + self.overlay

    @property
    def draws_heatmaps(self) -> bool:
        """Whether heatmaps are pictures."""
        return self.heatmap not in ("npy", "none")


@dataclass(frozen=True, slots=True)
class DrawnTarget:
    """The map of one target, and everything made of it.

    Attributes:
        map: float32 ``[rows, columns]``, the raw map over the patch grid.
        heatmap: the heatmap as a picture or npy file, or None.
        overlay: the overlay as a picture file, or None.
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
    maps: NDArray[np.floating],
    geometry: Geometry,
    canvas: Image.Image | None,
    rules: DrawingRules,
) -> DrawnImage:
    """Draw and describe every target of a picture.

    Args:
        maps: ``[targets, rows, columns]``, the finite raw maps over the patch grid.
        geometry: how the patch grid maps to the picture.
        canvas: the upright picture in RGB at its
            :func:`~legrad_engine.images.geometry.drawing_size`; None without an overlay.
        rules: the wanted pictures and numbers.
    """
    began = time.perf_counter()
    heatmaps = None
    if rules.draws_heatmaps or rules.overlay:
        size = drawing_size(geometry.image_size, rules.max_side)
        heatmaps = normalize(upsample(maps, geometry, size), rules.normalize)
    targets = []
    for index, raw in enumerate(maps):
        heatmap = drawn = None
        if heatmaps is not None:
            heatmap = _encode_heatmap(heatmaps[index], rules)
            if canvas is not None:
                drawing = overlay(canvas, heatmaps[index], rules.colormap, rules.alpha)
                drawn = encode_picture(drawing, rules.format, rules.quality)
        if rules.heatmap == "npy":
            heatmap = encode_npy(raw)
        regions = None
        if rules.regions_threshold is not None:
            regions = find_regions(raw, geometry, rules.regions_threshold)
        targets.append(DrawnTarget(raw, heatmap, drawn, regions, summarize(raw, geometry)))
    return DrawnImage(targets, time.perf_counter() - began)


def _encode_heatmap(heatmap: NDArray[np.float32], rules: DrawingRules) -> bytes | None:
    match rules.heatmap:
        case "png16":
            return encode_png(heatmap, 16)
        case "png" | "jpeg" | "webp":
            grey = Image.fromarray(to_levels(heatmap))
            return encode_picture(grey, rules.heatmap, rules.quality)
        case "npy" | "none":
            return None
