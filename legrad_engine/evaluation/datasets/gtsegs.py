"""ImageNet-Segmentation (Guillaumin et al., IJCV 2014): the 4,276 pictures of gtsegs_ijcv.mat."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from legrad_engine.errors import in_one_line
from legrad_engine.evaluation.errors import DataSetError, SampleError
from legrad_engine.evaluation.files import check_size, require
from legrad_engine.evaluation.imagenet_classes import imagenet_indices, imagenet_names
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import Annotation, DataSet, Entry, Options, Sample


@register_data_set
class ImageNetSegmentation(DataSet):
    """One MATLAB 7.3 file, which is HDF5: `/value/{img,gt,id}` refer to each picture's arrays.

    The id begins with the synset, such as `n01440764_10040`.
    """

    kind = "gtsegs"
    title = "ImageNet-Segmentation"
    layout = "gtsegs_ijcv.mat; needs the extra `evaluate`"
    provides = frozenset({"masks", "boxes", "class"})

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; there are no splits."""
        if options.split or options.images:
            raise DataSetError("gtsegs has one file: give no split and no images.", field="data")
        require(path, "gtsegs_ijcv.mat of ImageNet-Segmentation")
        try:
            import h5py
        except ImportError as error:
            raise DataSetError(
                "gtsegs_ijcv.mat needs h5py: install legrad-service[evaluate].", field="data"
            ) from error
        self.index = (path,)
        self._path = path
        try:
            self._file: Any = h5py.File(path, "r")
            self._value = self._file["value"]
            self._count = len(self._value["img"])
            lengths = {len(self._value[name]) for name in ("img", "gt", "id")}
        except (OSError, KeyError, TypeError) as error:
            raise DataSetError(
                f"{path} is not gtsegs_ijcv.mat: {in_one_line(error)}.", field="data"
            ) from error
        if lengths != {self._count}:
            raise DataSetError(f"{path} has lists of unequal lengths.", field="data")
        self.classes = imagenet_names()
        self.imagenet = {index: index for index in range(len(self.classes))}

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return self._count

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for number in range(self._count):
            yield Entry(f"{number:05d}", (), partial(self._load, number))

    def _load(self, number: int) -> Sample:
        try:
            name = np.asarray(self._file[self._value["id"][number, 0]]).astype("<u2").tobytes()
            # MATLAB stores columns first: [channels, width, height].
            pixels = np.asarray(self._file[self._value["img"][number, 0]]).transpose()
            truth = self._file[self._file[self._value["gt"][number, 0]][0, 0]]
            mask = np.asarray(truth).transpose() > 0
            if pixels.ndim == 2:
                pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
            picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
            synset = name.decode("utf-16-le").strip().partition("_")[0]
        # A damaged file raises exceptions of nearly any type.
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            raise SampleError(
                f"Picture {number} of {self._path} cannot be read: {in_one_line(error)}.",
                field="data",
            ) from error
        check_size(f"Mask {number} of {self._path}", (mask.shape[1], mask.shape[0]), picture.size)
        index = imagenet_indices().get(synset)
        if index is None:
            raise SampleError(
                f"Picture {number} of {self._path} has the class {synset!r}, which is no synset of "
                "ImageNet.",
                field="data",
            )
        if not mask.any():
            return Sample(picture, ())
        return Sample(picture, (Annotation(self.classes[index], index, mask=mask),))
