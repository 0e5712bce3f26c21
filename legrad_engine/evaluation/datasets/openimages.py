"""Point labels of OpenImages V7."""

from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.files import read_picture, read_table, require
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import Annotation, DataSet, Entry, Options, Points, Sample

_FOLDERS = {"train": "train", "val": "validation", "test": "test"}
_ANSWERS = {"yes": 1, "no": 0}


@register_data_set
class OpenImagesPoints(DataSet):
    """Points that people answered yes or no to, by picture and class; unsure ones do not count.

    A picture has the classes with at least one positive point in it.
    """

    kind = "openimages-points"
    title = "OpenImages V7, point labels"
    layout = (
        "oidv7-val-annotations-point-labels.csv, oidv7-class-descriptions.csv, validation/ID.jpg"
    )
    provides = frozenset({"points"})

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; splits are `val`, `test` and `train`."""
        split = options.split or "val"
        if split not in _FOLDERS:
            raise DataSetError(
                f"OpenImages has the splits {', '.join(_FOLDERS)}, not {split!r}.", field="data"
            )
        points = require(
            path / f"oidv7-{split}-annotations-point-labels.csv", "the point labels of OpenImages"
        )
        named = require(
            path / "oidv7-class-descriptions.csv", "the names of the classes of OpenImages"
        )
        self._images = require(
            options.images or path / _FOLDERS[split], "the pictures of OpenImages", folder=True
        )
        self.index = (points, named)
        names = {
            label: name for _, (label, name) in read_table(named, ("LabelName", "DisplayName"))
        }
        self._read_points(points, names)

    def _read_points(self, path: Path, names: dict[str, str]) -> None:
        """Read the points into compact arrays, sorted by picture."""
        ids: dict[str, int] = {}
        labels: dict[str, int] = {}
        numbers, places = array("i"), array("f")
        columns = ("ImageId", "X", "Y", "Label", "EstimatedYesNo")
        for line, (image, x, y, label, answer) in read_table(path, columns):
            if answer.lower() not in _ANSWERS:
                continue
            if label not in names:
                raise DataSetError(
                    f"Line {line} of {path} has the label {label!r}, which has no name in "
                    "oidv7-class-descriptions.csv.",
                    field="data",
                )
            try:
                position = (float(x), float(y))
            except ValueError as error:
                raise DataSetError(
                    f"Line {line} of {path} has a position that is no number.", field="data"
                ) from error
            # NaN is in no range.
            if not all(0 <= value <= 1 for value in position):
                raise DataSetError(
                    f"Line {line} of {path} has a position outside 0 to 1.", field="data"
                )
            numbers.extend(
                (
                    ids.setdefault(image, len(ids)),
                    labels.setdefault(label, len(labels)),
                    _ANSWERS[answer.lower()],
                )
            )
            places.extend(position)
        rows = np.frombuffer(numbers, np.intc).reshape(-1, 3) if numbers else np.empty((0, 3), int)
        order = np.argsort(rows[:, 0], kind="stable")
        self._rows = rows[order]
        stored = np.frombuffer(places, np.float32) if places else np.empty(0, np.float32)
        self._places: NDArray[np.float32] = stored.reshape(-1, 2)[order]
        self._starts = np.searchsorted(self._rows[:, 0], np.arange(len(ids) + 1))
        self._ids = list(ids)
        self.classes = [names[label] for label in labels]

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return len(self._ids)

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for number, image in enumerate(self._ids):
            path = self._images / f"{image}.jpg"
            yield Entry(image, (path,), partial(self._load, path, number))

    def _load(self, path: Path, number: int) -> Sample:
        picture = read_picture(path)
        own = slice(self._starts[number], self._starts[number + 1])
        rows, places = self._rows[own], self._places[own]
        annotations = []
        for label in dict.fromkeys(rows[:, 1].tolist()):
            of_label, yes = rows[:, 1] == label, rows[:, 2] == 1
            points = Points(places[of_label & yes], places[of_label & ~yes])
            if len(points.positive):
                annotations.append(Annotation(self.classes[label], label, points=points))
        return Sample(picture, tuple(annotations))
