"""ADE20K in the form of the MIT scene parsing challenge: 150 classes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.files import (
    pictures_in,
    read_picture,
    read_plane,
    read_table,
    require,
)
from legrad_engine.evaluation.labels import annotations_of
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import DataSet, Entry, Options, Sample


@register_data_set
class Ade20k(DataSet):
    """Label maps with 0 for everything outside the classes, which counts as background.

    The first of the names of a class stands in prompts.
    """

    kind = "ade20k"
    title = "ADE20K, MIT scene parsing"
    layout = "ADEChallengeData2016/{objectInfo150.txt,images/validation,annotations/validation}"
    provides = frozenset({"masks", "boxes"})

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; splits are `validation` and `training`."""
        split = options.split or "validation"
        info = require(path / "objectInfo150.txt", "the names of the classes of ADE20K")
        self._images = require(
            options.images or path / "images" / split, "the pictures of ADE20K", folder=True
        )
        self._masks = require(path / "annotations" / split, "the label maps of ADE20K", folder=True)
        self.index = (info,)
        rows = [values for _, values in read_table(info, ("Idx", "Name"), "\t")]
        if [index for index, _ in rows] != [str(place) for place in range(1, len(rows) + 1)]:
            raise DataSetError(f"{info} does not count its classes from 1.", field="data")
        self.classes = [name.partition(",")[0].strip() for _, name in rows]
        self._pictures = pictures_in(self._images)

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return len(self._pictures)

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for path in self._pictures:
            mask = self._masks / f"{path.stem}.png"
            yield Entry(path.name, (path, mask), partial(self._load, path, mask))

    def _load(self, path: Path, mask: Path) -> Sample:
        picture = read_picture(path)
        labels = read_plane(mask, picture.size)
        return Sample(picture, annotations_of(labels, self.classes, ignored=None, source=mask))
