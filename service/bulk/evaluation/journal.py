"""The journal of evaluations: one line of JSON for each sample, protocol and method."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from service.bulk.locking import LinesWriter

FILE_NAME = "journal.jsonl"


class Line(BaseModel):
    """The measurement of one sample.

    Attributes:
        run: hash of the weights, data set, protocol, method, options and versions.
        model: name of the model.
        weights: identity of its weights.
        sample: key of the sample.
        data: hash of the sample's files.
        record: the measured values; None if the sample has no annotation, or failed.
        error: the reason why it failed, or None.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    model: str
    weights: str
    sample: str
    data: str
    record: Mapping[str, Any] | None = None
    error: str | None = None


class JournalError(Exception):
    """The journal cannot be read, or another run writes into it."""


class Journal:
    """Context manager over the journal of a folder, which several evaluations may share.

    Of the lines of one run and sample the last one counts.
    """

    def __init__(self, folder: Path) -> None:
        """Read the journal, if there is one.

        Raises:
            JournalError: it cannot be read, or a line other than the last is damaged.
        """
        self._path = folder / FILE_NAME
        self._writer = LinesWriter(self._path, JournalError)
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def weights_of(self, model: str) -> list[str]:
        """Return the identities of the weights that a model had in earlier runs, latest first."""
        found = (line.weights for line in reversed(self._lines.values()) if line.model == model)
        return list(dict.fromkeys(found))

    def find(self, run: str, sample: str, data: str) -> Line | None:
        """Return the measurement of a sample with these files; None if there is none."""
        line = self._lines.get((run, sample))
        return line if line is not None and line.data == data else None

    def is_done(self, run: str, sample: str, data: str) -> bool:
        """Return whether a sample was measured; one that failed is not."""
        line = self.find(run, sample, data)
        return line is not None and line.error is None

    def append(self, lines: Iterable[Line]) -> None:
        """Add measurements at once, as the only run in this folder.

        Raises:
            JournalError: another run writes into the folder.
            OSError: the journal cannot be written.
        """
        self._writer.begin(self._current)
        added = list(lines)
        for line in added:
            self._keep(line)
        self._writer.append(line.model_dump_json() for line in added)

    def _keep(self, line: Line) -> None:
        # Moved to the end, so that the latest weights are last.
        self._lines.pop((line.run, line.sample), None)
        self._lines[line.run, line.sample] = line

    def _read(self) -> None:
        self._lines: dict[tuple[str, str], Line] = {}
        if not self._path.exists():
            return
        try:
            with self._path.open(encoding="utf-8") as file:
                damaged = 0
                for number, text in enumerate(file, 1):
                    # A killed process leaves its last line incomplete.
                    if damaged:
                        break
                    try:
                        self._keep(Line.model_validate_json(text))
                    except ValidationError:
                        damaged = number
                else:
                    damaged = 0
        except (OSError, UnicodeDecodeError) as error:
            raise JournalError(f"{self._path} cannot be read: {error}") from error
        if damaged:
            raise JournalError(f"Line {damaged} of {self._path} is not a measurement.")

    def _current(self) -> Iterator[str]:
        """Read again, without lines that later ones replace, and one that a crash has cut off."""
        self._read()
        return (line.model_dump_json() for line in self._lines.values())
