"""Art for scenes, in place of the rendered icons: discs of eight colours, or cuttings of scenes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.paths import TESTS
from tools.starter.art import Sprites
from tools.starter.sources import SPRITE_SIZE, Concept, fit_to_square
from tools.starter.styles import ALL_STYLES, VALIDATION_STYLE

NAMES = ("cat", "pizza", "rocket", "bicycle", "banana", "guitar", "rose", "car")
SCENES = TESTS / "tools" / "starter" / "scenes"


def write_art(cache: Path) -> None:
    """Write sprites as `python -m tools.starter art` does, with drawings in the held-out style."""
    axis = np.linspace(-1, 1, SPRITE_SIZE)
    disc = axis[:, None] ** 2 + axis[None, :] ** 2 < 0.9
    cache.mkdir(parents=True, exist_ok=True)
    shape = (len(ALL_STYLES), len(NAMES), SPRITE_SIZE, SPRITE_SIZE, 4)
    # Mapped, because nearly all of the file is empty.
    pixels = np.lib.format.open_memmap(cache / "sprites.npy", "w+", np.uint8, shape)
    drawn = ALL_STYLES.index(VALIDATION_STYLE)
    for concept in range(len(NAMES)):
        pixels[drawn, concept, disc, :3] = [255 * (concept >> bit & 1) for bit in range(3)]
        pixels[drawn, concept, disc, 3] = 255
    pixels.flush()
    table = {
        "styles": ALL_STYLES,
        "present": [[style == VALIDATION_STYLE] * len(NAMES) for style in ALL_STYLES],
        "concepts": [{"name": name, "synonyms": [], "code_point": "0"} for name in NAMES],
    }
    (cache / "sprites.json").write_text(json.dumps(table))


def cut_stickers() -> Sprites:
    """Cut the stickers out of the committed scenes; every style draws them alike."""
    found: dict[str, Image.Image] = {}
    for entry in json.loads((SCENES / "scenes.json").read_text()):
        picture = Image.open(SCENES / f"{entry['name']}.png").convert("RGBA")
        mask = np.array(Image.open(SCENES / f"{entry['name']}-mask.png"))
        for number, name in enumerate(entry["stickers"], start=1):
            picture.putalpha(Image.fromarray(np.where(mask == number, 255, 0).astype(np.uint8)))
            found.setdefault(name, fit_to_square(picture, SPRITE_SIZE))
    pixels = np.stack([np.asarray(each) for each in found.values()])
    return Sprites(
        pixels=np.broadcast_to(pixels, (len(ALL_STYLES), *pixels.shape)),
        present=np.ones((len(ALL_STYLES), len(found)), dtype=np.bool_),
        styles=ALL_STYLES,
        concepts=tuple(Concept(name, (), "0") for name in found),
    )
