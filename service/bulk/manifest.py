"""The manifest of a folder of explanations: one line of JSON for each heatmap."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from legrad_engine.images.fits import Fit
from service.bulk.locking import LinesWriter

FILE_NAME = "manifest.jsonl"


class Entry(BaseModel):
    """One heatmap, or one picture that failed.

    Attributes:
        picture: path of the picture, relative to the folder of the manifest.
        digest: hash of the picture's bytes, in hexadecimal.
        question: hash of the weights, the options, all prompts and the versions of the software,
            in hexadecimal; probabilities are among those prompts.
        model: name of the model.
        weights: hash of the model's local files, ``blake2b:HEX``, or ``ORG/REPO@COMMIT`` on the
            model hub.
        method: name of the explanation method; empty if the picture failed.
        layers: the explained blocks.
        score: the explained score.
        size: side of the model's input in pixels; None for the model's own.
        fit: how the picture is fitted to the input.
        image_size: (width, height) of the upright picture in pixels.
        prompt: the prompt; empty if the picture failed.
        head: index of the attention head whose map it is; None for a map of all heads.
        head_count: number of heads that the picture has maps of; None for a map of all heads.
        similarity: cosine similarity of picture and prompt.
        probability: of the prompt among all prompts; None if the model gives none.
        presence: calibrated probability that the picture shows the thing that the prompt names;
            None without a calibration.
        overlay: path of the overlay, relative to the folder of the manifest.
        heatmap: path of the raw map, float32 [rows, columns], relative to the same folder.
        peak_position: (x, y) of the map's peak in pixels of the picture.
        peak: largest raw value.
        entropy: spread of the map, 0 to 1.
        border_mass: share of the map in its outermost ring of patches, 0 to 1.
        trust: how far the map can be trusted, with the fields of the HTTP answer; None if it was
            not measured.
        layers_report: the prompt after every block, with the fields of the HTTP answer; None if it
            was not asked for.
        error: reason why the picture failed, or None.
    """

    model_config = ConfigDict(frozen=True)

    picture: str
    digest: str
    question: str
    model: str
    weights: str = ""
    method: str = ""
    layers: tuple[int, ...] = ()
    score: str = ""
    size: int | None = None
    fit: Fit = "squash"
    image_size: tuple[int, int] = (0, 0)
    prompt: str = ""
    head: int | None = None
    head_count: int | None = None
    similarity: float = 0.0
    probability: float | None = None
    presence: float | None = None
    overlay: str = ""
    heatmap: str = ""
    peak_position: tuple[int, int] = (0, 0)
    peak: float = 0.0
    entropy: float = 0.0
    border_mass: float = 0.0
    trust: dict[str, Any] | None = None
    layers_report: dict[str, Any] | None = None
    error: str | None = None

    @property
    def title(self) -> str:
        """The prompt, with the head if the map is that of one."""
        return self.prompt if self.head is None else f"{self.prompt}, head {self.head}"


class ManifestError(Exception):
    """The folder has no manifest, or its manifest cannot be read."""


class Manifest:
    """Context manager that reads the manifest of a folder, and writes it from the first new entry.

    The first write and the end of the context drop obsolete entries: those that a later entry
    replaces, those whose files are missing, and a last line that a crash has cut off.
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest, if there is one.

        Raises:
            ManifestError: it cannot be read, or a line other than the last is not an entry.
        """
        self._folder = folder
        self._path = folder / FILE_NAME
        self._writer = LinesWriter(self._path, ManifestError)
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close(lambda: map(_line, read(self._path)))

    def is_done(self, picture: str, digest: str, question: str, prompts: Sequence[str]) -> bool:
        """Return whether the folder holds all heatmaps of a picture for this question."""
        return self._done.get((picture, digest, question), set()) >= set(prompts)

    def weights_of(self, model: str) -> list[str]:
        """Return the identities of the weights that a model had in earlier runs, latest first."""
        found = (each.weights for each in reversed(self._entries) if each.model == model)
        return list(dict.fromkeys(filter(None, found)))

    def overlays_of(self, question: str) -> dict[str, list[str]]:
        """Return the overlays of each picture for a question, by the picture's path."""
        found: dict[str, list[str]] = {}
        for each in self._entries:
            if each.question == question and each.error is None:
                found.setdefault(each.picture, []).append(each.overlay)
        return found

    def begin(self) -> None:
        """Begin to write, as the only run in this folder.

        Raises:
            ManifestError: another run writes into the folder.
            OSError: the manifest cannot be written.
        """
        self._writer.begin(self._current)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add the entries of one picture at once, after its files are written.

        Raises:
            ManifestError, OSError: see :meth:`begin`.
        """
        self.begin()
        self._writer.append(map(_line, entries))

    def _read(self) -> None:
        """Read the entries whose files exist, and those of failed pictures."""
        entries = read(self._path)
        self._entries = [each for each in entries if each.error or _is_whole(self._folder, each)]
        self._done: dict[tuple[str, str, str], set[str]] = {}
        found: Counter[tuple[str, str, str, str]] = Counter()
        for each in self._entries:
            if each.error is None:
                key = (each.picture, each.digest, each.question)
                found[*key, each.prompt] += 1
                # The maps of single heads count once all of them are there.
                if found[*key, each.prompt] == (each.head_count or 1):
                    self._done.setdefault(key, set()).add(each.prompt)

    def _current(self) -> Iterator[str]:
        self._read()
        return map(_line, self._entries)


def read(path: Path) -> list[Entry]:
    """Read the current entries of a manifest; a missing file is empty.

    Of the entries of one picture and question, those of the latest run count: the picture may have
    changed, have failed, or have been repaired since.

    Raises:
        ManifestError: it cannot be read, or a line other than the last is not an entry.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    current: dict[tuple[str, str], dict[tuple[str, int | None], Entry]] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            # A killed process leaves its last line incomplete.
            if number == len(lines):
                break
            raise ManifestError(f"Line {number} of {path} is not a manifest entry.") from error
        key = (entry.picture, entry.question)
        known = current.setdefault(key, {})
        if any(each.digest != entry.digest or each.error or entry.error for each in known.values()):
            # Moved to the end, so that the entries of a picture stay together.
            del current[key]
            known = current[key] = {}
        # Moved to the end, so that the entries of a picture are in the order of its latest run.
        known.pop((entry.prompt, entry.head), None)
        known[entry.prompt, entry.head] = entry
    found = [entry for entries in current.values() for entry in entries.values()]
    # Earlier versions wrote the results of several questions into the same files: the last counts.
    owner = {entry.overlay: entry for entry in found}
    return [entry for entry in found if entry.error or owner[entry.overlay] is entry]


def _is_whole(folder: Path, entry: Entry) -> bool:
    return all((folder / name).is_file() for name in (entry.overlay, entry.heatmap))


def _line(entry: Entry) -> str:
    return entry.model_dump_json()
