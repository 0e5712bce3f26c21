"""Conversion of the raw outcome to the contract: base64, boxes and points."""

import base64
from dataclasses import asdict

from legrad_engine.images.regions import Region
from service.explaining.outcome import ExplainedImage, ExplainedTarget, StageSeconds
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


def image_explanation(image: ExplainedImage) -> ImageExplanation:
    """Return one explained picture as the contract has it."""
    geometry = image.geometry
    rows, columns = geometry.grid
    return ImageExplanation(
        size=Size(width=geometry.image_size[0], height=geometry.image_size[1]),
        input_size=Size(width=geometry.input_size[0], height=geometry.input_size[1]),
        grid=Grid(rows=rows, columns=columns),
        batch_size=image.batch_size,
        cached=image.cached,
        targets=[_target(target) for target in image.targets],
    )


def timings(seconds: StageSeconds) -> Timings:
    """Return the seconds of each stage as the contract has them."""
    return Timings(**asdict(seconds))


def _target(target: ExplainedTarget) -> TargetExplanation:
    drawn = target.drawn
    statistics = asdict(drawn.statistics) | {
        "peak_position": _point(drawn.statistics.peak_position)
    }
    return TargetExplanation(
        target=target.name.label,
        prompt=target.name.prompt,
        similarity=target.similarity,
        probability=target.probability,
        heatmap=_base64(drawn.heatmap),
        overlay=_base64(drawn.overlay),
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


def _base64(encoded: bytes | None) -> str | None:
    return None if encoded is None else base64.b64encode(encoded).decode("ascii")
