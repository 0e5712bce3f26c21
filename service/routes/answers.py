"""Conversion of the raw outcome to the contract: pictures, boxes and points."""

from typing import Any

from legrad_engine.images.regions import Region
from service.explaining.outcome import ExplainedImage, ExplainedTarget, StageSeconds
from service.routes.writing import Place
from service.schemas.answers import ImageExplanation, Timings
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
    # Validated at once: a model for each part, made on its own, would take twice the time.
    return ImageExplanation.model_validate(
        {
            "size": _size(geometry.image_size),
            "input_size": _size(geometry.input_size),
            "grid": {"rows": rows, "columns": columns},
            "batch_size": image.batch_size,
            "cached": image.cached,
            "method": {
                "name": image.method.name,
                "targeted": image.method.targeted,
                "note": image.method.note,
            },
            "targets": [_target(target, output, place) for target in image.targets],
            **image.measured,
        }
    )


def timings(seconds: StageSeconds) -> Timings:
    """Return the seconds of each stage as the contract has them."""
    return Timings(
        decode=seconds.decode,
        queue=seconds.queue,
        compute=seconds.compute,
        render=seconds.render,
        total=seconds.total,
    )


def _target(target: ExplainedTarget, output: OutputOptions, place: Place) -> dict[str, Any]:
    drawn = target.drawn
    statistics = drawn.statistics
    return {
        "target": target.name.label,
        "prompt": target.name.prompt,
        "head": target.name.head,
        "similarity": target.similarity,
        "probability": target.probability,
        "presence": target.presence,
        "heatmap": None if drawn.heatmap is None else place(drawn.heatmap),
        "heatmap_type": HEATMAP_TYPES[output.heatmap],
        "overlay": None if drawn.overlay is None else place(drawn.overlay),
        "overlay_type": PICTURE_TYPES[output.format] if output.overlay else None,
        "regions": None if drawn.regions is None else [_region(each) for each in drawn.regions],
        "statistics": {
            "peak": statistics.peak,
            "peak_position": _point(statistics.peak_position),
            "mean": statistics.mean,
            "entropy": statistics.entropy,
            "border_mass": statistics.border_mass,
        },
        **target.measured,
    }


def _region(region: Region) -> dict[str, Any]:
    left, top, right, bottom = region.box
    return {
        "box": {"left": left, "top": top, "right": right, "bottom": bottom},
        "area": region.area,
        "peak": region.peak,
        "peak_position": _point(region.peak_position),
        "mean": region.mean,
    }


def _size(size: tuple[int, int]) -> dict[str, int]:
    return {"width": size[0], "height": size[1]}


def _point(position: tuple[int, int]) -> dict[str, int]:
    return {"x": position[0], "y": position[1]}
