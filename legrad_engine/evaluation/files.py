"""Reading of the files of data sets, with errors that name the file."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError, in_one_line
from legrad_engine.evaluation.errors import DataSetError, SampleError
from legrad_engine.images.decoding import DEFAULT_MAX_PIXELS, decode

_PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def require(path: Path, what: str, *, folder: bool = False) -> Path:
    """Return a path that must exist.

    Raises:
        DataSetError: it does not, or is of the other kind.
    """
    if not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        raise DataSetError(f"There is no {kind} {path}, {what}.", field="data")
    return path


def subfolders(path: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones."""
    return sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")


def pictures_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are named like pictures, sorted by name."""
    return sorted(
        each
        for each in folder.iterdir()
        if each.suffix.lower() in _PICTURES and each.name[0] != "."
    )


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not empty, without the spaces around them.

    Raises:
        DataSetError: it cannot be read, or is not text in UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(f"{path} cannot be read: {in_one_line(error)}.", field="data") from error
    return [line.strip() for line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataSetError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataSetError(f"{path} cannot be read: {in_one_line(error)}.", field="data") from error


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the values of some columns of each row of a CSV file.

    Args:
        path: the file; its first line names the columns.
        columns: the columns to read.
        delimiter: between the values.

    Raises:
        DataSetError: it cannot be read, has no such column, or a row has too few values.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataSetError(
                    f"{path} has no column {', '.join(missing)}: its first line must name "
                    f"{', '.join(columns)}.",
                    field="data",
                )
            places = [header.index(name) for name in columns]
            for row in rows:
                if not row:
                    continue
                if len(row) <= max(places):
                    raise DataSetError(
                        f"Line {rows.line_num} of {path} has too few values.", field="data"
                    )
                yield rows.line_num, [row[place].strip() for place in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataSetError(f"{path} cannot be read: {in_one_line(error)}.", field="data") from error


def read_picture(path: Path) -> Image.Image:
    """Read the picture of a sample as upright RGB.

    Raises:
        SampleError: the file is missing, damaged or too large.
    """
    try:
        return decode(path)
    except (ImageDecodeError, ImageTooLargeError) as error:
        if not path.is_file():
            raise SampleError(f"There is no file {path}.", field="data") from error
        raise SampleError(f"{path}: {error}", field="data") from error


def read_labels(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read the label map of a sample as its stored values, without a palette.

    Args:
        path: the file, usually PNG.
        size: (width, height) that it must have: the picture's.

    Returns:
        uint8 [height, width], or [height, width, channels] of a file in colours.

    Raises:
        SampleError: the file is missing, damaged, deeper than 8 bits or of another size.
    """
    try:
        with Image.open(path) as opened:
            check_size(path, opened.size, size)
            if opened.width * opened.height > DEFAULT_MAX_PIXELS:
                raise SampleError(f"{path} has too many pixels.", field="data")
            labels = np.asarray(opened)
    # On damaged files Pillow's readers raise exceptions of nearly any type.
    except Exception as error:
        if isinstance(error, (SampleError, MemoryError)):
            raise
        if not path.is_file():
            raise SampleError(f"There is no file {path}.", field="data") from error
        raise SampleError(f"{path} cannot be read: {in_one_line(error)}.", field="data") from error
    if labels.dtype == np.bool_:
        return labels.astype(np.uint8)
    if labels.dtype != np.uint8:
        raise SampleError(
            f"{path} holds {labels.dtype}: a label map has 8 bits per channel.", field="data"
        )
    return labels


def read_plane(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a label map that has one channel, see :func:`read_labels`.

    Raises:
        SampleError: see :func:`read_labels`, or the file has several channels.
    """
    labels = read_labels(path, size)
    if labels.ndim != 2:
        raise SampleError(
            f"{path} has {labels.shape[2]} channels: this data set's label maps have one.",
            field="data",
        )
    return labels


def check_size(source: object, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Check the (width, height) of a mask.

    Raises:
        SampleError: it is not the picture's.
    """
    if found != wanted:
        raise SampleError(
            f"{source} has {found[0]} x {found[1]} pixels, but its picture has "
            f"{wanted[0]} x {wanted[1]}.",
            field="data",
        )


def check_unique(path: Path, names: Sequence[str]) -> None:
    """Check that a list of samples names each of them once.

    Raises:
        DataSetError: it repeats one.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataSetError(f"{path} lists {name} twice.", field="data")
        seen.add(name)
