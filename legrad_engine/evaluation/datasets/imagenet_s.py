"""ImageNet-S (arXiv 2106.03149): ImageNet with masks of 50, 300 or 919 classes."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from legrad_engine.evaluation.errors import DataSetError, SampleError
from legrad_engine.evaluation.files import (
    pictures_in,
    read_labels,
    read_picture,
    require,
    subfolders,
)
from legrad_engine.evaluation.imagenet_classes import imagenet_indices, imagenet_names
from legrad_engine.evaluation.labels import annotations_of
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import DataSet, Entry, Options, Sample

_IGNORED = 1000


@register_data_set
class ImageNetS(DataSet):
    """Pictures in folders of synsets, and masks with R + 256 G for the class.

    Class ids are the positions of the synsets in sorted order, so all class folders must be there.
    """

    kind = "imagenet-s"
    title = "ImageNet-S"
    layout = "ImageNetS919/{validation,validation-segmentation}/n01440764/NAME.{JPEG,png}"
    provides = frozenset({"masks", "boxes", "class"})

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; splits are `validation` and `train-semi`."""
        split = options.split or "validation"
        images = require(
            options.images or path / split, "the pictures of ImageNet-S by synset", folder=True
        )
        masks = require(path / f"{split}-segmentation", "the masks of ImageNet-S", folder=True)
        synsets = [folder.name for folder in subfolders(masks)]
        known, names = imagenet_indices(), imagenet_names()
        strange = [synset for synset in synsets if synset not in known]
        if strange or not synsets:
            raise DataSetError(
                f"{masks} must hold folders of ImageNet's synsets, not "
                f"{strange[0] if strange else 'nothing'}.",
                field="data",
            )
        told = re.search(r"(?:50|300|919)$", path.resolve().name)
        if told and len(synsets) != int(told[0]):
            raise DataSetError(
                f"{masks} has {len(synsets)} folders of synsets in place of {told[0]}: class ids "
                "are their positions, so all must be there.",
                field="data",
            )
        missing = [synset for synset in synsets if not (images / synset).is_dir()]
        if missing:
            raise DataSetError(
                f"There is no folder {images / missing[0]}, the pictures of one of the "
                f"{len(synsets)} synsets that have masks; {len(missing)} are missing.",
                field="data",
            )
        self.classes = [names[known[synset]] for synset in synsets]
        self.imagenet = {place: known[synset] for place, synset in enumerate(synsets)}
        self._images, self._masks = images, masks
        self._pairs = [
            (picture, masks / synset / f"{picture.stem}.png")
            for synset in synsets
            for picture in pictures_in(images / synset)
        ]

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return len(self._pairs)

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for picture, mask in self._pairs:
            key = picture.relative_to(self._images).as_posix()
            yield Entry(key, (picture, mask), partial(self._load, picture, mask))

    def _load(self, path: Path, mask: Path) -> Sample:
        picture = read_picture(path)
        stored = read_labels(mask, picture.size)
        if stored.ndim != 3 or stored.shape[2] < 2:
            raise SampleError(f"{mask} is not in RGB.", field="data")
        channels = stored.astype(np.int32)
        labels = channels[..., 0] + 256 * channels[..., 1]
        return Sample(picture, annotations_of(labels, self.classes, ignored=_IGNORED, source=mask))
