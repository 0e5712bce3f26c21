"""Write the pictures that are committed: the small test set with its masks, and the example."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageChops, ImageFilter

from legrad_engine.starter.art import HELD_OUT_STYLE, Sprites, render_sprite
from legrad_engine.starter.evaluation import pictures
from legrad_engine.starter.scenes import compose, evaluation_recipe

_SEED = 4_000_000
_SCENES_BY_COUNT = {1: 4, 2: 10, 3: 10}

# The example: a crop (left, top, right, bottom) of a photograph in scikit-image, and on it, for
# each sticker, its centre and side in pixels and its tilt in degrees.
_EXAMPLE_PHOTOGRAPH = "hubble_deep_field.jpg"
_EXAMPLE_CROP = (150, 200, 870, 680)
_EXAMPLE_STICKERS = (
    ("cat", (150, 150), 210, 8),
    ("pizza", (548, 132), 190, -14),
    ("bicycle", (312, 345), 220, -6),
    ("rocket", (600, 365), 170, 10),
)


def write_test_scenes(sprites: Sprites, folder: Path) -> None:
    """Write 24 scenes of the held-out style, their masks and `scenes.json` into `folder`.

    A mask is an indexed PNG: 0 is background, i is the i-th sticker's visible pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(_SEED)
    names = [concept.name for concept in sprites.concepts]
    entries = []
    for count, total in _SCENES_BY_COUNT.items():
        recipe = evaluation_recipe((count,))
        scenes = compose(sprites, {HELD_OUT_STYLE: 1.0}, recipe, _SEED + count, total)
        for index, picture in enumerate(pictures(scenes)):
            stem = f"{count}-{index:02}"
            # 256 colours are enough for drawings and keep the repository small.
            picture.quantize(256, dither=Image.Dither.NONE).save(
                folder / f"{stem}.png", optimize=True
            )
            labels = np.zeros(scenes.masks.shape[2:], np.uint8)
            for slot in range(count):
                labels[scenes.masks[index, slot].numpy()] = slot + 1
            mask = Image.fromarray(labels).convert("P")
            mask.putpalette([0, 0, 0, 228, 26, 28, 55, 126, 184, 77, 175, 74])
            mask.save(folder / f"{stem}-mask.png", optimize=True, bits=2)
            present = [names[concept] for concept in scenes.concepts[index, :count].tolist()]
            absent = str(generator.choice([name for name in names if name not in present]))
            entries.append({"name": stem, "stickers": present, "absent": absent})
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    (folder / "scenes.json").write_text(f"[\n{lines}\n]\n")


def write_example(cache: Path, sprites: Sprites, path: Path) -> None:
    """Compose the example picture: four stickers with a white border among the galaxies.

    Raises:
        ValueError: The held-out style lacks one of the stickers.
    """
    photograph = Path(skimage.__file__).parent / "data" / _EXAMPLE_PHOTOGRAPH
    picture = Image.open(photograph).convert("RGB").crop(_EXAMPLE_CROP)
    by_name = {concept.name: concept for concept in sprites.concepts}
    for name, (across, down), side, tilt in _EXAMPLE_STICKERS:
        sticker = render_sprite(cache, HELD_OUT_STYLE, by_name[name], side)
        if sticker is None:
            raise ValueError(f"{HELD_OUT_STYLE} has no {name}")
        margin = 24
        roomy = Image.new("RGBA", (side + 2 * margin, side + 2 * margin), (0, 0, 0, 0))
        roomy.paste(sticker, (margin, margin))
        turned = roomy.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
        outline = (
            turned.getchannel("A")
            .filter(ImageFilter.MaxFilter(9))
            .filter(ImageFilter.GaussianBlur(1.2))
        )
        corner = (across - turned.width // 2, down - turned.height // 2)
        shadow = ImageChops.offset(outline.filter(ImageFilter.GaussianBlur(6)), 3, 7).point(
            lambda a: a * 0.7
        )
        picture.paste((0, 0, 0), corner, shadow)
        picture.paste((255, 255, 255), corner, outline)
        picture.paste(turned, corner, turned)
    picture.save(path, optimize=True)
