"""Composition of the committed test scenes and their masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tools.starter.art import Sprites
from tools.starter.scenes import compose, evaluation_recipe, pictures
from tools.starter.styles import VALIDATION_STYLE

_SEED = 4_000_000
_SCENES_BY_COUNT = {1: 4, 2: 10, 3: 10}


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
        scenes = compose(sprites, {VALIDATION_STYLE: 1.0}, recipe, _SEED + count, total)
        for index, picture in enumerate(pictures(scenes)):
            stem = f"{count}-{index:02}"
            # 256 colours are enough for drawings and keep the files small.
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
