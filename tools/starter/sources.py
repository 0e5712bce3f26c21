"""Rendering of one sticker from a set of vector icons, a font, or a folder of pictures."""

from __future__ import annotations

import functools
import io
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tools.starter.colouring import colour_in
from tools.starter.vocabulary import SYNONYMS

SPRITE_SIZE = 128
_RENDER_SIZE = 256
_MARGIN = 2

# Some sets number their variants, or keep "face" where the current emoji label has dropped it.
_EMOJI_ENDINGS = ("", "-1", "-face", "-face-1")
# Sets of general icons: the name of the icon set, and the endings of the wanted variant.
_ICON_SETS = {
    "fa6-solid": ("fa6-solid", ("",)),
    "game-icons": ("game-icons", ("", "-face")),
    "hugeicons": ("hugeicons", ("", "-01")),
    "icon-park": ("icon-park", ("",)),
    "icon-park-solid": ("icon-park-solid", ("",)),
    "lucide": ("lucide", ("",)),
    "mdi": ("mdi", ("", "-face")),
    "mingcute": ("mingcute", ("-fill",)),
    "phosphor": ("ph", ("",)),
    "phosphor-duotone": ("ph", ("-duotone",)),
    "solar": ("solar", ("-bold-duotone",)),
    "streamline-color": ("streamline-color", ("", "-1", "-2")),
    "streamline-cyber-color": ("streamline-cyber-color", ("", "-1", "-2")),
    "streamline-flex-color": ("streamline-flex-color", ("", "-1", "-2")),
    "streamline-plump-color": ("streamline-plump-color", ("", "-1", "-2")),
    "tabler": ("tabler", ("",)),
}
# Words that mean something else in sets of interface icons: a computer mouse, a memory chip, a
# baseball bat, a sport, a fault of a program.
_AMBIGUOUS = frozenset({"bat", "bug", "cricket", "mouse", "ram", "turkey"})
_RASTER_STYLE = "fluent-emoji-3d"
_FONTS = {
    "noto-emoji-outline": (
        "npm/node_modules/@expo-google-fonts/noto-emoji/400Regular/NotoEmoji_400Regular.ttf"
    ),
    "symbola": "debian/usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf",
}
_COLOURED_IN = "-coloured-in"
_CLIP_ART = Path(__file__).with_name("clip_art.json")
_CLIP_ART_FOLDERS = {
    "open-clip-art": "usr/share/openclipart/svg",
    "tux-paint-drawings": "usr/share/tuxpaint/stamps",
    "tux-paint-photographs": "usr/share/tuxpaint/stamps",
}


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


class DamagedDrawingError(ValueError):
    """A file of the art is no picture, or a picture that shows nothing."""


def slug(label: str) -> str:
    """Form an icon's name from a label: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


@functools.cache
def icon_set(cache: Path, name: str) -> dict[str, Any]:
    """Read one of the downloaded icon sets."""
    path = cache / "npm" / "node_modules" / "@iconify-json" / name / "icons.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@functools.cache
def clip_art() -> dict[str, dict[str, list[str]]]:
    """Read the files of clip art by collection and concept, chosen by looking at each."""
    loaded: dict[str, dict[str, list[str]]] = json.loads(_CLIP_ART.read_text())
    return loaded


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


def fit_to_square(image: Image.Image, size: int) -> Image.Image:
    """Crop to the visible pixels and centre them in a transparent square, aspect ratio kept.

    Raises:
        DamagedDrawingError: The image has no visible pixel.
    """
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise DamagedDrawingError("the image is fully transparent")
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


def _decoded(encoded: bytes) -> Image.Image:
    """Decode a picture.

    Raises:
        DamagedDrawingError: It cannot be decoded.
    """
    try:
        return Image.open(io.BytesIO(encoded)).convert("RGBA")
    # Pillow raises each of these for pictures that are damaged, cut off or none at all.
    except (OSError, SyntaxError, ValueError) as error:
        raise DamagedDrawingError(str(error)) from error


def _rasterised(
    width: int,
    *,
    height: int | None = None,
    document: str | None = None,
    path: Path | None = None,
) -> Image.Image:
    """Render a vector drawing, given by its text or its file.

    Raises:
        DamagedDrawingError: It is no valid SVG.
        ImportError: The renderer is not installed.
    """
    import resvg_py

    try:
        rendered = resvg_py.svg_to_bytes(
            svg_string=document,
            svg_path=None if path is None else str(path),
            width=width,
            height=height,
        )
    except ValueError as error:
        raise DamagedDrawingError(str(error)) from error
    return _decoded(bytes(rendered))


def _icon(cache: Path, style: str, concept: Concept, size: int) -> Image.Image | None:
    words: tuple[str, ...] = (concept.name,)
    name, endings = _ICON_SETS.get(style, (style, _EMOJI_ENDINGS))
    if style in _ICON_SETS:
        if concept.name in _AMBIGUOUS:
            return None
        words += SYNONYMS.get(concept.name, ())
    icons = icon_set(cache, name)
    for word in words:
        for ending in endings:
            document = _vector_document(icons, slug(word) + ending)
            if document is not None:
                return _rasterised(size, height=size, document=document)
    return None


def _file(cache: Path, style: str, concept: Concept, size: int) -> Image.Image | None:
    collection, number = style, 1
    if style[-1].isdigit():
        collection, number = style[:-2], int(style[-1])
    files = clip_art()[collection].get(concept.name, [])
    if len(files) < number:
        return None
    path = cache / "debian" / _CLIP_ART_FOLDERS[collection] / files[number - 1]
    # The renderer would take a missing file for a damaged one.
    encoded = path.read_bytes()
    return _rasterised(size, path=path) if path.suffix == ".svg" else _decoded(encoded)


def _glyph(cache: Path, style: str, concept: Concept, size: int) -> Image.Image | None:
    font = ImageFont.truetype(cache / _FONTS[style], size)
    character = chr(int(concept.code_point, 16))
    left, top, right, bottom = font.getbbox(character)
    drawn = Image.new("RGBA", (int(right - left), int(bottom - top)), (0, 0, 0, 0))
    ImageDraw.Draw(drawn).text((-left, -top), character, font=font, fill=(0, 0, 0, 255))
    return drawn


def _coloured_in(cache: Path, style: str, concept: Concept, size: int) -> Image.Image | None:
    drawn = _drawing(cache, style.removesuffix(_COLOURED_IN), concept, size)
    seed = zlib.crc32(f"{style} {concept.name}".encode())
    return None if drawn is None else colour_in(drawn.convert("RGBA"), seed)


def _raster(cache: Path, style: str, concept: Concept, _size: int) -> Image.Image | None:
    folder = cache / "npm" / "node_modules" / "@lobehub" / style / "assets"
    # A folder that is missing is no style that lacks everything: listing it raises.
    names = {path.name for path in folder.iterdir()}
    for candidate in (f"{concept.code_point}.webp", f"{concept.code_point}-fe0f.webp"):
        if candidate in names:
            return _decoded((folder / candidate).read_bytes())
    return None


def _drawing(cache: Path, style: str, concept: Concept, size: int) -> Image.Image | None:
    source: Callable[[Path, str, Concept, int], Image.Image | None]
    if style.endswith(_COLOURED_IN):
        source = _coloured_in
    elif style == _RASTER_STYLE:
        source = _raster
    elif style in _FONTS:
        source = _glyph
    elif style.startswith(tuple(_CLIP_ART_FOLDERS)):
        source = _file
    else:
        source = _icon
    return source(cache, style, concept, size)


def render_sprite(cache: Path, style: str, concept: Concept, size: int) -> Image.Image | None:
    """Render one sticker, `size` x `size` RGBA.

    Returns:
        None if the style lacks the concept or its drawing is damaged.

    Raises:
        ImportError: The renderer is not installed.
        OSError: The art is not in the cache folder.
    """
    try:
        drawn = _drawing(cache, style, concept, max(_RENDER_SIZE, 2 * size))
        return None if drawn is None else fit_to_square(drawn.convert("RGBA"), size)
    except DamagedDrawingError:
        return None
