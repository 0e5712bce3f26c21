"""Conversion of the raw outcome to the contract: pictures, boxes and points."""

from dataclasses import asdict

from legrad_engine.images.regions import Region
from service.explaining.outcome import ExplainedImage, ExplainedTarget, StageSeconds
from service.routes.writing import Place
from service.schemas.answers import (
    Box,
    Grid,
    HeatmapRegion,
    HeatmapStatistics,
    ImageExplanation,
    Point,
    Size,
    TargetExplanation,
    Timings,
)
from service.schemas.media_types import HEATMAP_TYPES, PICTURE_TYPES
from service.schemas.requests import OutputOptions


def image_explanation(
    image: ExplainedImage, output: OutputOptions, place: Place
) -> ImageExplanation:
    """Return one explained picture as the contract has it.

    Args:
        image: the explained picture.
        output: the options that its heatmaps and overlays were drawn with.
        place: returns what stands for a heatmap or an overlay.
    """
    geometry = image.geometry
    rows, columns = geometry.grid
    return ImageExplanation(
        size=Size(width=geometry.image_size[0], height=geometry.image_size[1]),
        input_size=Size(width=geometry.input_size[0], height=geometry.input_size[1]),
        grid=Grid(rows=rows, columns=columns),
        batch_size=image.batch_size,
        cached=image.cached,
        targets=[_target(target, output, place) for target in image.targets],
    )


def timings(seconds: StageSeconds) -> Timings:
    """Return the seconds of each stage as the contract has them."""
    return Timings(**asdict(seconds))


def _target(target: ExplainedTarget, output: OutputOptions, place: Place) -> TargetExplanation:
    drawn = target.drawn
    statistics = asdict(drawn.statistics) | {
        "peak_position": _point(drawn.statistics.peak_position)
    }
    return TargetExplanation(
        target=target.name.label,
        prompt=target.name.prompt,
        similarity=target.similarity,
        probability=target.probability,
        heatmap=None if drawn.heatmap is None else place(drawn.heatmap),
        heatmap_type=HEATMAP_TYPES[output.heatmap],
        overlay=None if drawn.overlay is None else place(drawn.overlay),
        overlay_type=PICTURE_TYPES[output.format] if output.overlay else None,
        regions=None if drawn.regions is None else [_region(each) for each in drawn.regions],
        statistics=HeatmapStatistics(**statistics),
    )


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
