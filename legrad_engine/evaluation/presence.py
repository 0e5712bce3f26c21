"""Pairs of pictures and texts with the knowledge whether the picture shows the thing."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.files import pictures_in, read_table, require, subfolders

TABLE = "prompts.csv"
_WITH, _WITHOUT = "with", "without"
_WORDS = {
    "1": True, "yes": True, "true": True,
    "0": False, "no": False, "false": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PresencePair:
    """One picture and one text.

    Attributes:
        picture: the picture's file.
        prompt: the text.
        shown: whether the picture shows what the text names.
    """

    picture: Path
    prompt: str
    shown: bool


def read_pairs(folder: Path) -> list[PresencePair]:
    """Read the pairs of a folder.

    The folder has a table ``prompts.csv``, or a folder for each prompt, named like it, with the
    folders ``with`` and ``without``. A table has the columns picture and prompt. With a third
    column, present (yes or no), each row is a pair. Without it, as in the tables of
    ``legrad evaluate``, each row is a prompt that its picture shows, and a picture does not show
    the table's other prompts.

    Raises:
        DataSetError: there is neither, or a value is missing, unknown, or contradicts another.
    """
    require(folder, "which should hold the pictures", folder=True)
    table = folder / TABLE
    pairs = list(_of_table(table) if table.is_file() else _of_folders(folder))
    if not pairs:
        raise DataSetError(f"{folder} has no pictures.", field="data")
    seen: dict[tuple[Path, str], bool] = {}
    for pair in pairs:
        if seen.setdefault((pair.picture, pair.prompt), pair.shown) != pair.shown:
            raise DataSetError(
                f"{folder} says both that {pair.picture.name} shows {pair.prompt!r} and that it "
                "does not.",
                field="data",
            )
    return [PresencePair(picture, prompt, shown) for (picture, prompt), shown in seen.items()]


def _of_table(table: Path) -> Iterator[PresencePair]:
    has_present = "present" in _header(table)
    columns: Sequence[str] = ("picture", "prompt", *(["present"] if has_present else []))
    rows: list[tuple[Path, str, bool]] = []
    for line, values in read_table(table, columns):
        if not all(values):
            raise DataSetError(f"Line {line} of {table} has an empty value.", field="data")
        shown = _WORDS.get(values[2].lower()) if has_present else True
        if shown is None:
            raise DataSetError(
                f"Line {line} of {table} has {values[2]!r} in the column present: write yes or no.",
                field="data",
            )
        rows.append((table.parent / values[0], values[1], shown))
    yield from (PresencePair(*row) for row in rows)
    if not has_present:
        prompts = dict.fromkeys(prompt for _, prompt, _ in rows)
        listed = {(picture, prompt) for picture, prompt, _ in rows}
        for picture in dict.fromkeys(picture for picture, _, _ in rows):
            for prompt in prompts:
                if (picture, prompt) not in listed:
                    yield PresencePair(picture, prompt, shown=False)


def _header(table: Path) -> list[str]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        # Reading the table reports the same error with its file.
        return []


def _of_folders(folder: Path) -> Iterator[PresencePair]:
    prompts = subfolders(folder)
    if not prompts:
        raise DataSetError(
            f"{folder} has neither a table {TABLE} with the columns picture, prompt and present, "
            f"nor a folder for each prompt with the folders {_WITH} and {_WITHOUT}.",
            field="data",
        )
    for prompt in prompts:
        for name, shown in ((_WITH, True), (_WITHOUT, False)):
            kind = "pictures with it" if shown else "pictures without it"
            for picture in pictures_in(require(prompt / name, kind, folder=True)):
                yield PresencePair(picture, prompt.name, shown)
