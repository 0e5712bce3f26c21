"""Contact sheet of a folder of explanations: one self-contained HTML page of thumbnails."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from legrad_engine import LegradError
from legrad_engine.images.decoding import decode
from service.bulk.manifest import FILE_NAME, Entry, ManifestError, read

THUMBNAIL_SIDE = 320
_QUALITY = 80


@dataclass(frozen=True)
class _Heatmap:
    """One heatmap; `best` if its prompt fits the picture better than the others."""

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


@dataclass(frozen=True)
class _Question:
    """The pictures of one question.

    Attributes:
        digest: identifies it; its first 8 digits are in the name of its folder.
        options: everything about it except the prompts, for people.
        prompts: the number of prompts.
        pictures: its pictures.
    """

    digest: str
    options: str
    prompts: int
    pictures: Sequence[_Picture]

    @property
    def explained(self) -> int:
        """The number of pictures with heatmaps."""
        return sum(picture.error is None for picture in self.pictures)


def contact_sheet(folder: Path) -> str:
    """Return an HTML page of every picture with its overlays, similarities and probabilities.

    The results of different questions (models, options, prompts) are in sections of their own.

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
    environment = Environment(
        loader=PackageLoader("service.bulk", "."), autoescape=True, undefined=StrictUndefined
    )
    explained = [entry for entry in entries if entry.error is None]
    return environment.get_template("contact_sheet.html").render(
        folder=folder.resolve().name,
        questions=[_question(folder, group) for group in _grouped(entries, "question")],
        pictures=len({entry.picture for entry in entries}),
        explained=len({entry.picture for entry in explained}),
        prompts=len({entry.prompt for entry in explained}),
        models=sorted({entry.model for entry in entries}),
    )


def _grouped(
    entries: Sequence[Entry], attribute: Literal["question", "picture"]
) -> list[list[Entry]]:
    """Group entries by an attribute, in the order of their first appearance."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(getattr(entry, attribute), []).append(entry)
    return list(groups.values())


def _question(folder: Path, entries: Sequence[Entry]) -> _Question:
    # Failed pictures have no layers and no score.
    shown = max(entries, key=lambda entry: entry.error is None)
    options = [f"model {shown.model}"]
    if shown.layers:
        options.append(f"method {shown.method}")
        options.append(f"layers {', '.join(map(str, shown.layers))}")
        options.append(f"score {shown.score}")
    options += [f"size {shown.size}"] if shown.size is not None else []
    options += [f"fit {shown.fit}"] if shown.fit != "squash" else []
    options += ["heads each"] if shown.head is not None else []
    return _Question(
        shown.question,
        ", ".join(options),
        len({entry.prompt for entry in entries if entry.error is None}),
        [_picture(folder, group) for group in _grouped(entries, "picture")],
    )


def _picture(folder: Path, entries: Sequence[Entry]) -> _Picture:
    first = entries[0]
    name = Path(first.picture).name
    if first.error is not None:
        return _Picture(name, first.image_size, None, (), first.error)
    several = len({entry.prompt for entry in entries}) > 1
    best = max(entries, key=lambda entry: entry.similarity) if several else None
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
