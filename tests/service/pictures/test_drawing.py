"""Drawing of maps in every format."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images.decoding import decode
from legrad_engine.images.encoding import PICTURE_FORMATS, PictureFormat
from legrad_engine.images.geometry import plan
from service.pictures.drawing import DrawingRules, draw
from tests.support.paths import EXAMPLES

CANVAS = decode(EXAMPLES / "cat.jpg").resize((120, 80))
GEOMETRY = plan(CANVAS.size, size=64, patch_size=(16, 16), fit="squash")
MAPS = np.random.default_rng(0).random((2, 4, 4), np.float32)
RULES = DrawingRules(
    heatmap="png",
    overlay=True,
    colormap="turbo",
    alpha=0.6,
    normalize="each",
    regions_threshold=0.5,
    max_side=1024,
    format="png",
)


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("name", PICTURE_FORMATS)
def test_overlays_and_heatmaps_come_in_each_format(name: PictureFormat) -> None:
    exact = draw(MAPS, GEOMETRY, CANVAS, RULES).targets
    rules = replace(RULES, heatmap=name, format=name, quality=90)
    for target, expected in zip(draw(MAPS, GEOMETRY, CANVAS, rules).targets, exact, strict=True):
        for found, original, mode in (
            (target.heatmap, expected.heatmap, "L"),
            (target.overlay, expected.overlay, "RGB"),
        ):
            picture = opened(found)
            assert (picture.format, picture.size) == (name.upper(), CANVAS.size)
            levels = np.asarray(picture.convert(mode), float)
            assert np.abs(levels - np.asarray(opened(original), float)).mean() < 5


def test_less_quality_takes_fewer_bytes() -> None:
    for rules in (replace(RULES, heatmap="jpeg", format="webp"), replace(RULES, format="jpeg")):
        fine, coarse = (
            draw(MAPS, GEOMETRY, CANVAS, replace(rules, quality=quality)).targets[0]
            for quality in (95, 30)
        )
        assert len(coarse.overlay or b"") < len(fine.overlay or b"")
        if rules.heatmap == "jpeg":
            assert len(coarse.heatmap or b"") < len(fine.heatmap or b"")


def test_raw_maps_need_no_drawing() -> None:
    rules = replace(RULES, heatmap="npy", overlay=False)
    assert rules.drawings_of_each_target == 0
    (target, _) = draw(MAPS, GEOMETRY, None, rules).targets
    assert target.overlay is None
    assert np.array_equal(np.load(io.BytesIO(target.heatmap or b"")), MAPS[0])


def test_deep_heatmaps_are_the_flat_ones_in_more_levels() -> None:
    flat, deep = (
        np.asarray(opened(draw(MAPS, GEOMETRY, None, rules).targets[0].heatmap), float)
        for rules in (
            replace(RULES, overlay=False),
            replace(RULES, heatmap="png16", overlay=False),
        )
    )
    assert (deep.min(), deep.max()) == (0, 65535)
    assert np.abs(deep / 257 - flat).max() <= 0.51
