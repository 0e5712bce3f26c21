"""Contact sheet of a folder of explanations: one self-contained HTML page of thumbnails."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from legrad_engine import LegradError
from legrad_engine.images.decoding import decode
from service.bulk.manifest import FILE_NAME, Entry, ManifestError, read

THUMBNAIL_SIDE = 320
_QUALITY = 80


@dataclass(frozen=True)
class _Heatmap:
    entry: Entry
    thumbnail: str
    best: bool


@dataclass(frozen=True)
class _Picture:
    name: str
    size: tuple[int, int]
    thumbnail: str | None
    heatmaps: Sequence[_Heatmap]
    error: str | None


def contact_sheet(folder: Path) -> str:
    """Return an HTML page of every picture with its overlays, similarities and probabilities.

    Thumbnails of at most ``THUMBNAIL_SIDE`` pixels are embedded as data URLs. The page has no
    scripts and no references to other files.

    Args:
        folder: output folder of ``legrad explain``.

    Raises:
        ManifestError: the folder has no manifest, its manifest cannot be read, or an overlay is
            missing.
    """
    entries = read(folder / FILE_NAME)
    if not entries:
        raise ManifestError(
            f"{folder} holds no explanations: create some with `legrad explain PICTURES PROMPT... "
            f"-o {folder}`."
        )
    pictures = [
        _picture(folder, list(group))
        for _, group in groupby(entries, key=lambda entry: (entry.picture, entry.question))
    ]
    environment = Environment(
        loader=PackageLoader("service.bulk", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("contact_sheet.html").render(
        folder=folder.resolve().name,
        pictures=pictures,
        explained=sum(picture.error is None for picture in pictures),
        prompts=len({entry.prompt for entry in entries if entry.error is None}),
        models=sorted({entry.model for entry in entries}),
    )


def _picture(folder: Path, entries: Sequence[Entry]) -> _Picture:
    first = entries[0]
    name = Path(first.picture).name
    if first.error is not None:
        return _Picture(name, first.image_size, None, (), first.error)
    best = max(entries, key=lambda entry: entry.similarity)
    return _Picture(
        name,
        first.image_size,
        _original(folder / first.picture),
        [_Heatmap(each, _overlay(folder / each.overlay), each is best) for each in entries],
        None,
    )


def _original(path: Path) -> str | None:
    """Return the picture's thumbnail, or None if the file is gone or unreadable."""
    try:
        return _thumbnail(decode(path.read_bytes()))
    except (OSError, LegradError):
        return None


def _overlay(path: Path) -> str:
    try:
        with Image.open(path) as drawn:
            return _thumbnail(drawn.convert("RGB"))
    except OSError as error:
        raise ManifestError(f"{path} is in the manifest but cannot be read: {error}") from error


def _thumbnail(picture: Image.Image) -> str:
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
