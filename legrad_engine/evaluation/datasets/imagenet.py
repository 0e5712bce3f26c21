"""Folders of pictures by class, as of ImageNet's validation set."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.files import pictures_in, read_picture, require, subfolders
from legrad_engine.evaluation.imagenet_classes import imagenet_indices, imagenet_names
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import Annotation, DataSet, Entry, Options, Sample

_SYNSET = re.compile(r"n\d{8}")


@register_data_set
class ImageFolder(DataSet):
    """A folder for each class.

    If all folders are named by synsets, the classes are the 1,000 of ImageNet, also where only some
    of the folders are there. Otherwise the names of the folders are the classes.
    """

    kind = "imagenet"
    title = "ImageNet folder"
    layout = "val/n01440764/NAME.JPEG, or FOLDER/CLASS/NAME.jpg"
    provides = frozenset({"class"})

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; a split is a folder in the folder."""
        if options.images:
            raise DataSetError("An ImageNet folder is the folder of its pictures.", field="data")
        root = path / options.split if options.split else path
        require(root, "with a folder of pictures for each class", folder=True)
        folders = subfolders(root)
        if not folders:
            raise DataSetError(f"{root} has no folder for each class.", field="data")
        if all(_SYNSET.fullmatch(folder.name) for folder in folders):
            known = imagenet_indices()
            strange = [folder.name for folder in folders if folder.name not in known]
            if strange:
                raise DataSetError(
                    f"{root / strange[0]} is named by a synset outside ImageNet's 1,000 classes.",
                    field="data",
                )
            self.classes = imagenet_names()
            self.imagenet = {index: index for index in range(len(self.classes))}
            indices = [known[folder.name] for folder in folders]
        else:
            self.classes = [folder.name.replace("_", " ") for folder in folders]
            indices = list(range(len(folders)))
        self._root = root
        self._pictures = [
            (picture, index)
            for folder, index in zip(folders, indices, strict=True)
            for picture in pictures_in(folder)
        ]

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return len(self._pictures)

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for path, index in self._pictures:
            key = path.relative_to(self._root).as_posix()
            yield Entry(key, (path,), partial(self._load, path, index))

    def _load(self, path: Path, index: int) -> Sample:
        return Sample(read_picture(path), (Annotation(self.classes[index], index),))
