"""Pascal VOC: semantic segmentation of 20 classes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from legrad_engine.evaluation.files import (
    check_unique,
    read_lines,
    read_picture,
    read_plane,
    require,
)
from legrad_engine.evaluation.labels import annotations_of
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import DataSet, Entry, Options, Sample

_VOID = 255
_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip


@register_data_set
class PascalVoc(DataSet):
    """Label maps with a palette: 0 for the background, 255 for borders, which count nowhere."""

    kind = "voc"
    title = "Pascal VOC"
    layout = "VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/val.txt}"
    provides = frozenset({"masks", "boxes"})
    classes = _CLASSES

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; splits are the files of `ImageSets/Segmentation`."""
        split = options.split or "val"
        listed = path / "ImageSets" / "Segmentation" / f"{split}.txt"
        self.index = (require(listed, "the list of the pictures of Pascal VOC"),)
        self._images = require(
            options.images or path / "JPEGImages", "the pictures of Pascal VOC", folder=True
        )
        self._masks = require(
            path / "SegmentationClass", "the label maps of Pascal VOC", folder=True
        )
        self._names = read_lines(listed)
        check_unique(listed, self._names)

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return len(self._names)

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for name in self._names:
            files = self._images / f"{name}.jpg", self._masks / f"{name}.png"
            yield Entry(name, files, partial(self._load, *files))

    def _load(self, path: Path, mask: Path) -> Sample:
        picture = read_picture(path)
        labels = read_plane(mask, picture.size)
        return Sample(picture, annotations_of(labels, self.classes, ignored=_VOID, source=mask))
