"""Colouring of line art, so that outlines become stickers with flat areas of colour."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

# A colour does not run through a gap of a line of less than twice this many pixels.
_GAP = 3
_WHITE_SHARE = 0.25
_BLACK_SHARE = 0.5


def colour_in(drawn: Image.Image, seed: int) -> Image.Image:
    """Fill the areas that the lines enclose with up to three flat colours.

    Args:
        drawn: RGBA picture; its alpha is the ink.
        seed: Seed of the colours.

    Returns:
        RGBA picture, larger by a margin on each side.
    """
    lines = np.pad(np.asarray(drawn)[..., 3], _GAP + 1)
    open_parts, _ = ndimage.label(~ndimage.binary_dilation(lines > 127, iterations=_GAP))
    outside = ndimage.binary_dilation(open_parts == open_parts[0, 0], iterations=_GAP)
    parts, count = ndimage.label(~outside & (lines < 128))
    generator = np.random.default_rng(seed)
    palette = generator.uniform(0.35, 1, (int(generator.integers(1, 4)), 3))
    if generator.random() < _WHITE_SHARE:
        palette[0] = 1
    colours = palette[generator.integers(len(palette), size=count + 1)]
    ink = np.zeros(3) if generator.random() < _BLACK_SHARE else generator.uniform(0, 0.25, 3)
    # The colour of an area goes on below the soft edges of its lines.
    rows, columns = ndimage.distance_transform_edt(
        parts == 0, return_distances=False, return_indices=True
    )
    below = colours[parts[rows, columns]]
    opaque = lines[..., None] / 255
    pixels = np.dstack([below * (1 - opaque) + ink * opaque, np.maximum(~outside, opaque[..., 0])])
    return Image.fromarray((255 * pixels).round().astype(np.uint8))
