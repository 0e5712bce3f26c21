"""COCO and data sets in its form: one JSON file of boxes and masks."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import in_one_line
from legrad_engine.evaluation.coco_masks import mask_of
from legrad_engine.evaluation.errors import DataSetError, SampleError
from legrad_engine.evaluation.files import (
    check_size,
    check_unique,
    read_json,
    read_picture,
    require,
)
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import Annotation, DataSet, Entry, Options, Provision, Sample
from legrad_engine.images.geometry import Box


@register_data_set
class Coco(DataSet):
    """Annotations of objects, joined by class.

    Pixels of crowds (`iscrowd`) count neither as their class nor as background, and have no box.
    """

    kind = "coco"
    title = "COCO"
    layout = "annotations/instances_val2017.json, val2017/NAME.jpg"
    provides: frozenset[Provision] = frozenset({"masks", "boxes"})

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`.

        The pictures are in `images`, else in the folder beside that of the JSON file which its name
        ends with, else beside the JSON file.
        """
        if options.split:
            raise DataSetError("The JSON file of COCO is the split.", field="data")
        content = read_json(require(path, "the annotations in the form of COCO"))
        self._path = path
        self.index = (path,)
        by_name = path.parent.parent / path.stem.rpartition("_")[2]
        usual = by_name if by_name.is_dir() else path.parent
        self._images = require(options.images or usual, "the pictures of COCO", folder=True)
        try:
            categories = {each["id"]: str(each["name"]) for each in content["categories"]}
            self._index_of = {number: place for place, number in enumerate(categories)}
            self.classes = list(categories.values())
            self._pictures: list[tuple[str, tuple[int, int]]] = []
            numbers = {}
            for each in content["images"]:
                numbers[each["id"]] = len(self._pictures)
                size = (int(each["width"]), int(each["height"]))
                self._pictures.append((str(each["file_name"]), size))
            self._objects: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
            for each in content["annotations"]:
                if each["category_id"] not in self._index_of:
                    raise DataSetError(
                        f"Annotation {each.get('id')} of {path} has an unknown category.",
                        field="data",
                    )
                self._objects[numbers[each["image_id"]]].append(each)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataSetError(
                f"{path} is not in the form of COCO: {in_one_line(error)}.", field="data"
            ) from error
        check_unique(path, [name for name, _ in self._pictures])
        if not any(each.get("segmentation") for each in content["annotations"]):
            self.provides = frozenset({"boxes"})

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return len(self._pictures)

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for number, (name, _) in enumerate(self._pictures):
            path = self._images / name
            yield Entry(name, (path,), partial(self._load, path, number))

    def _load(self, path: Path, number: int) -> Sample:
        picture = read_picture(path)
        size = self._pictures[number][1]
        check_size(path, picture.size, size)
        by_class: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for each in self._objects.get(number, ()):
            by_class[self._index_of[each["category_id"]]].append(each)
        found = {
            index: self._annotation(index, objects, size) for index, objects in by_class.items()
        }
        return Sample(
            picture,
            tuple(each for each in found.values() if each is not None),
            also_shown=tuple(self.classes[index] for index, each in found.items() if each is None),
        )

    def _annotation(
        self, index: int, objects: Sequence[Mapping[str, Any]], size: tuple[int, int]
    ) -> Annotation | None:
        singles = [each for each in objects if not each.get("iscrowd")]
        if not singles:
            return None
        mask = ignored = None
        if "masks" in self.provides:
            mask = self._union(singles, size)
            if not mask.any():
                raise SampleError(
                    f"{self._named(singles[0])} is empty: no pixel shows {self.classes[index]!r}.",
                    field="data",
                )
            crowds = [each for each in objects if each.get("iscrowd")]
            ignored = self._union(crowds, size) & ~mask if crowds else None
        boxes = tuple(self._box(each) for each in singles)
        return Annotation(self.classes[index], index, mask=mask, ignored=ignored, boxes=boxes)

    def _union(
        self, objects: Sequence[Mapping[str, Any]], size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        joined = np.zeros((size[1], size[0]), np.bool_)
        for each in objects:
            joined |= mask_of(each.get("segmentation"), size, self._named(each))
        return joined

    def _box(self, annotation: Mapping[str, Any]) -> Box:
        try:
            left, top, width, height = (float(value) for value in annotation["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise SampleError(f"{self._named(annotation)} has no box.", field="data") from error
        return left, top, left + width, top + height

    def _named(self, annotation: Mapping[str, Any]) -> str:
        return f"Annotation {annotation.get('id')} of {self._path}"
