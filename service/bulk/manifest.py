"""The manifest of a folder of explanations: one line of JSON for each heatmap."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

FILE_NAME = "manifest.jsonl"


class Entry(BaseModel):
    """One heatmap, or one picture that failed.

    Attributes:
        picture: path of the picture, relative to the folder of the manifest.
        digest: hash of the picture's bytes, in hexadecimal.
        question: hash of the model, its options and all prompts, in hexadecimal; probabilities
            are among those prompts.
        model: name of the model.
        layers: the explained blocks.
        score: the explained score.
        image_size: (width, height) of the upright picture in pixels.
        prompt: the prompt; empty if the picture failed.
        similarity: cosine similarity of picture and prompt.
        probability: of the prompt among all prompts; None if the model gives none.
        overlay: path of the overlay, relative to the folder of the manifest.
        heatmap: path of the raw map, float32 [rows, columns], relative to the same folder.
        peak_position: (x, y) of the map's peak in pixels of the picture.
        peak: largest raw value.
        entropy: spread of the map, 0 to 1.
        border_mass: share of the map in its outermost ring of patches, 0 to 1.
        error: reason why the picture failed, or None.
    """

    model_config = ConfigDict(frozen=True)

    picture: str
    digest: str
    question: str
    model: str
    layers: tuple[int, ...] = ()
    score: str = ""
    image_size: tuple[int, int] = (0, 0)
    prompt: str = ""
    similarity: float = 0.0
    probability: float | None = None
    overlay: str = ""
    heatmap: str = ""
    peak_position: tuple[int, int] = (0, 0)
    peak: float = 0.0
    entropy: float = 0.0
    border_mass: float = 0.0
    error: str | None = None


class ManifestError(Exception):
    """The folder has no manifest, or its manifest cannot be read."""


class Manifest:
    """Context manager that writes the manifest of a folder.

    Entering it drops obsolete entries: failures, so that they are tried again; entries whose files
    are missing or that a later entry replaces; and a last line that a crash has cut off.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._done: dict[tuple[str, str, str], set[str]] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = [each for each in read(self._path) if self._holds(each)]
        for each in kept:
            key = (each.picture, each.digest, each.question)
            self._done.setdefault(key, set()).add(each.prompt)
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(map(_line, kept)), encoding="utf-8")
        partial.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def is_done(self, picture: str, digest: str, question: str, prompts: Sequence[str]) -> bool:
        """Return whether the folder holds all heatmaps of a picture for this question."""
        return self._done.get((picture, digest, question), set()) >= set(prompts)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add the entries of one picture at once, after its files are written."""
        self._file.write("".join(map(_line, entries)))
        self._file.flush()

    def _holds(self, entry: Entry) -> bool:
        return entry.error is None and all(
            (self._folder / name).is_file() for name in (entry.overlay, entry.heatmap)
        )


def read(path: Path) -> list[Entry]:
    """Read a manifest; of several entries for one file, the last counts. A missing file is empty.

    Raises:
        ManifestError: it cannot be read, or a line other than the last is not an entry.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    entries: dict[tuple[str, str], Entry] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            # A killed process leaves its last line incomplete.
            if number == len(lines):
                break
            raise ManifestError(f"Line {number} of {path} is not a manifest entry.") from error
        key = (entry.overlay, entry.picture if entry.error else "")
        # Moved to the end, so that the entries of a picture stay together.
        with contextlib.suppress(KeyError):
            del entries[key]
        entries[key] = entry
    return list(entries.values())


def _line(entry: Entry) -> str:
    return entry.model_dump_json() + "\n"
