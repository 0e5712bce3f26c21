"""Composition of the committed pictures: the example and the page's gallery.

Each has stickers of the held-out art style, with a white border, on a background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageChops, ImageFilter, ImageOps

from tools.starter.sources import Concept, render_sprite
from tools.starter.styles import VALIDATION_STYLE

_Color = tuple[int, int, int]

_SIZE = (720, 480)
# Crop of the photograph with the most visible galaxies: left, top, right, bottom.
_GALAXIES = (150, 200, 870, 680)


@dataclass(frozen=True)
class Sticker:
    """A sticker and its place.

    Attributes:
        name: The concept.
        centre: (x, y) in pixels.
        side: Side of the sticker's square, in pixels.
        tilt: Anticlockwise rotation, in degrees.
    """

    name: str
    centre: tuple[int, int]
    side: int
    tilt: float


_EXAMPLE = (
    Sticker("cat", (150, 150), 230, 4),
    Sticker("pizza", (544, 136), 180, -20),
    Sticker("bicycle", (324, 352), 200, -2),
    Sticker("rocket", (600, 360), 170, -6),
)


def write_example(cache: Path, concepts: Iterable[Concept], path: Path) -> None:
    """Compose the example picture: four stickers among the galaxies.

    Raises:
        ValueError: The held-out style lacks one of the stickers.
    """
    picture = _photograph("hubble_deep_field.jpg", _GALAXIES)
    _paste(cache, concepts, picture, _EXAMPLE)
    picture.save(path, optimize=True)


def write_gallery(cache: Path, concepts: Iterable[Concept], folder: Path) -> None:
    """Compose the pictures of the page's gallery, as WebP.

    Raises:
        ValueError: The held-out style lacks one of the stickers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    concepts = list(concepts)
    for name, (background, stickers) in _GALLERY.items():
        picture = background()
        _paste(cache, concepts, picture, stickers)
        picture.save(folder / f"{name}.webp", quality=82, method=6)


def _paste(
    cache: Path, concepts: Iterable[Concept], picture: Image.Image, stickers: Iterable[Sticker]
) -> None:
    by_name = {concept.name: concept for concept in concepts}
    for placed in stickers:
        side, (across, down) = placed.side, placed.centre
        sticker = render_sprite(cache, VALIDATION_STYLE, by_name[placed.name], side)
        if sticker is None:
            raise ValueError(f"{VALIDATION_STYLE} has no {placed.name}")
        margin = 24
        roomy = Image.new("RGBA", (side + 2 * margin, side + 2 * margin), (0, 0, 0, 0))
        roomy.paste(sticker, (margin, margin))
        turned = roomy.rotate(placed.tilt, Image.Resampling.BICUBIC, expand=True)
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


def _photograph(name: str, crop: tuple[int, int, int, int] | None = None) -> Image.Image:
    picture = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    return picture.crop(crop) if crop else ImageOps.fit(picture, _SIZE, Image.Resampling.LANCZOS)


def _tinted(name: str, dark: _Color, light: _Color) -> Image.Image:
    """Colour a grey texture with two colours."""
    return ImageOps.colorize(_photograph(name).convert("L"), dark, light)


def _gradient(top: _Color, bottom: _Color) -> Image.Image:
    share = np.linspace(0, 1, _SIZE[1])[:, None, None]
    rows = (1 - share) * np.array(top) + share * np.array(bottom)
    pixels = np.broadcast_to(rows, (_SIZE[1], _SIZE[0], 3))
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


_GALLERY: dict[str, tuple[Callable[[], Image.Image], tuple[Sticker, ...]]] = {
    "galaxies": (lambda: _photograph("hubble_deep_field.jpg", _GALAXIES), _EXAMPLE),
    "meadow": (
        lambda: _tinted("grass.png", (18, 46, 16), (176, 214, 120)),
        (
            Sticker("owl", (150, 165), 200, 5),
            Sticker("sunflower", (560, 140), 200, -10),
            Sticker("turtle", (585, 370), 180, 4),
            Sticker("butterfly", (320, 355), 180, 16),
        ),
    ),
    "band": (
        lambda: _tinted("brick.png", (58, 22, 14), (224, 178, 150)),
        (
            Sticker("guitar", (140, 170), 230, 0),
            Sticker("trumpet", (555, 125), 190, -8),
            Sticker("drum", (570, 360), 190, 6),
            Sticker("violin", (330, 350), 200, -12),
        ),
    ),
    "breakfast": (
        lambda: _photograph("coffee.png"),
        (
            Sticker("croissant", (110, 120), 180, 8),
            Sticker("strawberry", (610, 350), 160, -12),
            Sticker("doughnut", (600, 110), 170, 0),
            Sticker("lemon", (120, 370), 160, 14),
        ),
    ),
    "sky": (
        lambda: _gradient((84, 158, 226), (214, 236, 250)),
        (
            Sticker("airplane", (150, 130), 200, 0),
            Sticker("rainbow", (560, 160), 220, 0),
            Sticker("balloon", (330, 300), 210, -6),
            Sticker("helicopter", (580, 380), 170, 4),
        ),
    ),
    "desk": (
        lambda: _gradient((240, 226, 204), (222, 199, 168)),
        (
            Sticker("camera", (150, 140), 190, -6),
            Sticker("umbrella", (560, 150), 210, 10),
            Sticker("scissors", (330, 350), 170, 20),
            Sticker("trophy", (585, 375), 160, 4),
        ),
    ),
}
