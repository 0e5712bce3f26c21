"""Line art is filled with colours where its lines enclose an area, and only there."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.starter.colouring import colour_in

MARGIN = 4


def ring(gap: int = 0) -> Image.Image:
    drawn = Image.new("RGBA", (100, 100))
    ImageDraw.Draw(drawn).ellipse((20, 20, 80, 80), outline=(0, 0, 0, 255), width=4)
    drawn.paste((0, 0, 0, 0), (50, 10, 50 + gap, 50))
    return drawn


def coloured(drawn: Image.Image, seed: int = 1) -> NDArray[np.uint8]:
    filled = np.asarray(colour_in(drawn, seed))
    return filled[MARGIN:-MARGIN, MARGIN:-MARGIN]


@pytest.mark.parametrize("gap", [0, 4])
def test_an_enclosed_area_has_one_flat_colour(gap: int) -> None:
    filled = coloured(ring(gap))

    inside = filled[40:60, 30:70]
    assert (inside == inside[0, 0]).all()
    assert inside[0, 0, 3] == 255
    assert inside[0, 0, :3].max() > 80
    assert not filled[:15, :, 3].any()


def test_the_lines_stay_dark_and_opaque() -> None:
    drawn = ring()
    ink = np.asarray(drawn)[..., 3] == 255
    filled = coloured(drawn)

    assert (filled[ink][:, 3] == 255).all()
    assert filled[ink][:, :3].max() <= 64


def test_a_colour_that_would_run_out_is_left_out() -> None:
    assert not coloured(ring(gap=20))[45:55, 45:55, 3].any()


def test_a_seed_gives_the_same_colours_again() -> None:
    middles = [tuple(coloured(ring(), seed)[50, 50]) for seed in (1, 1, 2)]
    assert middles[0] == middles[1] != middles[2]
