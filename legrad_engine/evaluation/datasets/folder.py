"""Any folder of pictures with masks and a table of prompts."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.errors import DataSetError, SampleError
from legrad_engine.evaluation.files import read_labels, read_picture, read_table, require
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import Annotation, DataSet, Entry, Options, Sample

TABLE = "prompts.csv"
_COLUMNS = ("picture", "prompt", "mask")


@register_data_set
class Folder(DataSet):
    """`prompts.csv` names a picture, a prompt and a mask in each row, by paths in the folder.

    A mask is white, or of any value other than 0, where the picture shows the prompt. A picture may
    have several rows.
    """

    kind = "folder"
    title = "Folder with masks"
    layout = f"{TABLE} with the columns picture, prompt, mask; the files that it names"
    provides = frozenset({"masks", "boxes"})
    # The table has whole prompts.
    template = "{}"

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; a split is the name of another table."""
        table = require(
            path / (f"{options.split}.csv" if options.split else TABLE),
            f"a table with the columns {', '.join(_COLUMNS)}",
        )
        self.index = (table,)
        self._images = options.images or path
        self._masks = path
        self._rows: dict[str, dict[str, str]] = {}
        for line, (picture, prompt, mask) in read_table(table, _COLUMNS):
            if not (picture and prompt and mask):
                raise DataSetError(f"Line {line} of {table} has an empty value.", field="data")
            prompts = self._rows.setdefault(picture, {})
            if prompt in prompts:
                raise DataSetError(
                    f"Line {line} of {table} repeats the prompt {prompt!r} of {picture}.",
                    field="data",
                )
            prompts[prompt] = mask
        self.classes = list(dict.fromkeys(name for row in self._rows.values() for name in row))
        self._index_of = {name: place for place, name in enumerate(self.classes)}

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return len(self._rows)

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for name, prompts in self._rows.items():
            path = self._images / name
            masks = {prompt: self._masks / mask for prompt, mask in prompts.items()}
            yield Entry(name, (path, *masks.values()), partial(self._load, path, masks))

    def _load(self, path: Path, masks: dict[str, Path]) -> Sample:
        picture = read_picture(path)
        return Sample(
            picture,
            tuple(
                Annotation(prompt, self._index_of[prompt], mask=self._mask(mask, picture.size))
                for prompt, mask in masks.items()
            ),
        )

    def _mask(self, path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
        stored = read_labels(path, size)
        if stored.ndim == 3:
            # A fourth channel, or a second of two, is alpha.
            stored = stored[..., : 3 if stored.shape[2] >= 3 else 1].max(-1)
        mask: NDArray[np.bool_] = stored > 0
        if not mask.any():
            raise SampleError(f"{path} is empty: no pixel shows the prompt.", field="data")
        return mask
