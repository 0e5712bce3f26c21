"""Data sets as streams of pictures with annotations. Needs no torch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.images.geometry import Box

Provision = Literal["class", "masks", "boxes", "points"]
"""What the annotations of a data set have. A data set with masks also has their boxes."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Pixels with a known answer.

    Attributes:
        positive: float [n, 2], (x, y) of points that show the class, 0 to 1 of width and height.
        negative: float [m, 2], points that do not.
    """

    positive: NDArray[np.floating]
    negative: NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One class that a picture shows.

    Attributes:
        name: its name, as it stands in a prompt.
        index: its index among the classes of the data set.
        mask: bool [height, width] of the picture; None if the data set has none.
        ignored: bool [height, width], pixels that count neither as foreground nor as background;
            None if all count.
        boxes: boxes in pixels of the picture, where the data set has them.
        points: points with a known answer, where the data set has them.
    """

    name: str
    index: int
    mask: NDArray[np.bool_] | None = None
    ignored: NDArray[np.bool_] | None = None
    boxes: tuple[Box, ...] = ()
    points: Points | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A picture and what it shows.

    Attributes:
        picture: upright, RGB.
        annotations: one for each class in it; none for a picture without a class.
        also_shown: names of classes in it whose annotations cannot be used.
    """

    picture: Image.Image
    annotations: tuple[Annotation, ...]
    also_shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample that is not read yet.

    Attributes:
        key: unique name within the data set; results are kept under it.
        files: the files of this sample alone.
        load: reads it; raises SampleError or ImageDecodeError with the file's name.
    """

    key: str
    files: tuple[Path, ...]
    load: Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Options:
    """Choices within a data set.

    Attributes:
        split: name of the split; None for the data set's usual one.
        images: folder of the pictures, where it is not in its usual place.
    """

    split: str | None = None
    images: Path | None = None


class DataSet(ABC):
    """A data set in its published form.

    Making one reads the lists of its samples and classes. Pictures and masks are read one at a
    time.

    Attributes:
        kind: its name on the command line.
        title: its name for people.
        layout: the files that it consists of, in one line.
        provides: what its annotations have.
        template: the template of prompts around the names of its classes, if no other is asked for.
        index: files that list its samples or hold them all.
        classes: names of all its classes; pictures are told apart among them.
        imagenet: for each class its index among the 1,000 classes of ImageNet; empty if the classes
            are others.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    layout: ClassVar[str]
    provides: frozenset[Provision]
    template: ClassVar[str] = "a photo of a {}"
    index: tuple[Path, ...] = ()
    classes: Sequence[str] = ()
    imagenet: Mapping[int, int] = {}

    @abstractmethod
    def __init__(self, path: Path, options: Options) -> None:
        """Read the lists of samples and classes.

        Raises:
            DataSetError: a file is missing or not in the published form, or an option does not fit.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield the samples in a fixed order, without reading them."""
