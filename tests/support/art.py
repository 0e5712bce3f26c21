"""Art for scenes: discs of eight colours in place of the rendered icons."""

import json
from pathlib import Path

import numpy as np

from tools.starter.sources import SPRITE_SIZE
from tools.starter.styles import VALIDATION_STYLE

NAMES = ("cat", "pizza", "rocket", "bicycle", "banana", "guitar", "rose", "car")


def write_art(cache: Path) -> None:
    """Write sprites as `python -m tools.starter art` does, of the held-out style alone."""
    axis = np.linspace(-1, 1, SPRITE_SIZE)
    disc = axis[:, None] ** 2 + axis[None, :] ** 2 < 0.9
    pixels = np.zeros((1, len(NAMES), SPRITE_SIZE, SPRITE_SIZE, 4), np.uint8)
    for concept in range(len(NAMES)):
        pixels[0, concept, disc, :3] = [255 * (concept >> bit & 1) for bit in range(3)]
        pixels[0, concept, disc, 3] = 255
    cache.mkdir(parents=True, exist_ok=True)
    np.save(cache / "sprites.npy", pixels)
    table = {
        "styles": [VALIDATION_STYLE],
        "present": [[True] * len(NAMES)],
        "concepts": [{"name": name, "synonyms": [], "code_point": "0"} for name in NAMES],
    }
    (cache / "sprites.json").write_text(json.dumps(table))
