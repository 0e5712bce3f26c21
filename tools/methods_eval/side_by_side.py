"""One picture explained by every method, side by side."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from legrad_engine import Explainer
from legrad_engine.images.geometry import upsample
from legrad_engine.images.rendering import normalize, overlay

_SIDE = 200
_CAPTION = 22
_GAP = 6
_COLUMNS = 5


def side_by_side(explainer: Explainer, picture: Image.Image, prompt: str) -> Image.Image:
    """Draw the overlay of a prompt by each method that the model offers, after the picture itself.

    Args:
        explainer: the model.
        picture: RGB.
        prompt: the prompt.
    """
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    drawn = [("The picture", small)]
    for method in explainer.methods:
        (found,) = explainer.explain(picture, [prompt], method=method.name)
        geometry = explainer.plan(picture.size)
        (heatmap,) = normalize(upsample(found.maps, geometry, small.size))
        drawn.append((method.name, overlay(small, np.asarray(heatmap))))
    return _sheet(drawn)


def _sheet(drawn: list[tuple[str, Image.Image]]) -> Image.Image:
    width, height = drawn[0][1].size
    rows = math.ceil(len(drawn) / _COLUMNS)
    step = (width + _GAP, height + _CAPTION)
    sheet = Image.new("RGB", (_COLUMNS * step[0] + _GAP, rows * step[1] + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, (caption, cell) in enumerate(drawn):
        left, top = _GAP + place % _COLUMNS * step[0], place // _COLUMNS * step[1]
        pen.text((left, top + 3), caption, "black", font)
        sheet.paste(cell, (left, top + _CAPTION))
    return sheet
