"""An explanation as a caller sees it: pictures in base64, regions, numbers."""

import base64
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from legrad_engine import Explanation
from legrad_engine.images.geometry import drawing_size, upsample
from legrad_engine.images.regions import Region, find_regions
from legrad_engine.images.rendering import encode_npy, encode_png, normalize, overlay
from legrad_engine.images.statistics import summarize
from service.errors import NotFiniteError
from service.explaining.targets import TargetName
from service.schemas.answers import Box, HeatmapRegion, HeatmapStatistics, Point, TargetExplanation
from service.schemas.requests import OutputOptions


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One picture's targets, and the seconds it took to render them."""

    targets: list[TargetExplanation]
    seconds: float


def render(
    explanation: Explanation,
    canvas: Image.Image | None,
    targets: Sequence[TargetName],
    output: OutputOptions,
) -> RenderedImage:
    """Draws and describes every target of a picture.

    Args:
        explanation: the picture's maps.
        canvas: the upright picture in RGB, of its :func:`drawing_size`; None without an overlay.
        targets: what an answer calls the targets, in the order of the maps.
        output: what is wanted.

    Raises:
        NotFiniteError: the maps or similarities are not finite.
    """
    began = time.perf_counter()
    if not (np.isfinite(explanation.maps).all() and np.isfinite(explanation.similarities).all()):
        raise NotFiniteError(
            "The model's numbers overflow for this picture or target: ask its operator to serve it "
            "in float32, or bfloat16 in place of float16 (LEGRAD_DTYPE)."
        )
    needs_picture = output.overlay or output.heatmap in ("png", "png16")
    geometry = explanation.geometry
    size = drawing_size(geometry.image_size, output.max_side)
    heatmaps = (
        normalize(upsample(explanation.maps, geometry, size), output.normalize)
        if needs_picture
        else None
    )
    rendered = []
    for index, target in enumerate(targets):
        raw = explanation.maps[index]
        heatmap = drawn = None
        if heatmaps is not None and output.heatmap in ("png", "png16"):
            heatmap = encode_png(heatmaps[index], 16 if output.heatmap == "png16" else 8)
        elif output.heatmap == "npy":
            heatmap = encode_npy(raw)
        if heatmaps is not None and canvas is not None:
            drawn = encode_png(overlay(canvas, heatmaps[index], output.colormap, output.alpha))
        regions = None
        if output.regions_threshold is not None:
            found = find_regions(raw, geometry, output.regions_threshold)
            regions = [_region(region) for region in found]
        statistics = summarize(raw, geometry)
        probability = float(explanation.probabilities[index])
        rendered.append(
            TargetExplanation(
                target=target.label,
                prompt=target.prompt,
                similarity=float(explanation.similarities[index]),
                probability=None if math.isnan(probability) else probability,
                heatmap=_base64(heatmap),
                overlay=_base64(drawn),
                regions=regions,
                statistics=HeatmapStatistics(
                    **asdict(statistics) | {"peak_position": _point(statistics.peak_position)}
                ),
            )
        )
    return RenderedImage(rendered, time.perf_counter() - began)


def drawings_of_each_target(output: OutputOptions) -> int:
    """How many pictures of :func:`drawing_size` an answer has for each target."""
    return (output.heatmap in ("png", "png16")) + output.overlay


def _region(region: Region) -> HeatmapRegion:
    left, top, right, bottom = region.box
    return HeatmapRegion(
        box=Box(left=left, top=top, right=right, bottom=bottom),
        area=region.area,
        peak=region.peak,
        peak_position=_point(region.peak_position),
        mean=region.mean,
    )


def _point(position: tuple[int, int]) -> Point:
    return Point(x=position[0], y=position[1])


def _base64(encoded: bytes | None) -> str | None:
    return None if encoded is None else base64.b64encode(encoded).decode("ascii")
