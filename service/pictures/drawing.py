"""Drawing and encoding the maps of one picture. A function for the picture workers.

Its values have no slots: pickling would then read and set each field by Python code.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pickle import PickleBuffer  # nosec B403 # a view of bytes; nothing is unpickled here
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.images.encoding import (
    DEFAULT_QUALITY,
    PICTURE_FORMATS,
    HeatmapFormat,
    PictureFormat,
    check_format,
    encode_npy,
    encode_picture,
    encode_png,
)
from legrad_engine.images.enlarging import enlarge
from legrad_engine.images.geometry import Geometry, drawing_size
from legrad_engine.images.regions import Region, find_all_regions
from legrad_engine.images.rendering import Blending, Normalization
from legrad_engine.images.statistics import Statistics, summarize_all

# The protocol of pickle that has buffers beside the pickle.
_BUFFERS_SINCE = 5


@dataclass(frozen=True)
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

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Take the rules from the options of an answer, which has others too."""
        return cls(**{each.name: options[each.name] for each in fields(cls)})

    @property
    def drawings_of_each_target(self) -> int:
        """The number of full-size pictures for each target."""
        return self.draws_heatmaps + self.overlay

    @property
    def needs_numbers_only(self) -> bool:
        """Whether only statistics are wanted, which cost next to nothing."""
        return self.heatmap == "none" and not self.overlay and self.regions_threshold is None

    @property
    def draws_heatmaps(self) -> bool:
        """Whether heatmaps are pictures."""
        return self.heatmap not in ("npy", "none")

    def check(self, size: tuple[int, int]) -> None:
        """Refuse formats that cannot hold pictures of (width, height) pixels.

        Raises:
            InvalidOptionError: a side is too long; ``format`` or ``heatmap`` is at fault.
        """
        check_format(self.heatmap, size, "heatmap")
        if self.overlay:
            check_format(self.format, size, "format")


@dataclass(frozen=True)
class DrawnTarget:
    """The map of one target, and everything made of it.

    Attributes:
        map: float32 ``[rows, columns]``, the raw map over the patch grid.
        heatmap: the heatmap as a picture or npy file, or None.
        overlay: the overlay as a picture file, or None.
        regions: regions that reach the threshold, or None where none were asked for.
        statistics: numbers that describe the map.
    """

    map: NDArray[np.floating]
    heatmap: bytes | None
    overlay: bytes | None
    regions: Sequence[Region] | None
    statistics: Statistics

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Let pickles have the files beside them, where they are not copied."""
        if int(protocol) < _BUFFERS_SINCE:
            return super().__reduce_ex__(protocol)
        values = vars(self).values()
        return DrawnTarget, tuple(
            PickleBuffer(value) if isinstance(value, bytes) else value for value in values
        )


@dataclass(frozen=True)
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
    size = drawing_size(geometry.image_size, rules.max_side)
    levels = deep = None
    if rules.overlay or rules.heatmap in PICTURE_FORMATS:
        levels = enlarge(maps, geometry, size, rules.normalize)
    if rules.heatmap == "png16":
        deep = enlarge(maps, geometry, size, rules.normalize, 65535)
    regions = None
    if rules.regions_threshold is not None:
        regions = find_all_regions(maps, geometry, rules.regions_threshold)
    targets = []
    statistics = summarize_all(maps, geometry)
    blending = None if canvas is None else Blending(canvas, rules.colormap, rules.alpha)
    for index, raw in enumerate(maps):
        drawn = None
        drawn_map = deep if rules.heatmap == "png16" else levels
        heatmap = _encode_heatmap(raw, None if drawn_map is None else drawn_map[index], rules)
        if levels is not None and blending is not None:
            drawn = encode_picture(blending.over(levels[index]), rules.format, rules.quality)
        found = None if regions is None else regions[index]
        targets.append(DrawnTarget(raw, heatmap, drawn, found, statistics[index]))
    return DrawnImage(targets, time.perf_counter() - began)


def _encode_heatmap(
    raw: NDArray[np.floating], levels: NDArray[Any] | None, rules: DrawingRules
) -> bytes | None:
    if rules.heatmap == "npy":
        return encode_npy(raw)
    if levels is None or rules.heatmap == "none":
        return None
    if rules.heatmap == "png16":
        return encode_png(levels)
    return encode_picture(levels, rules.heatmap, rules.quality)
