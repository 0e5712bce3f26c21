"""Base class of the protocols, and its helpers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.evaluation.samples import Provision
from legrad_engine.evaluation.subject import Batch
from legrad_engine.images.geometry import Geometry, upsample
from legrad_engine.images.rendering import normalize

Record = Mapping[str, Any]
"""What was measured on one sample: JSON values from which all figures are computed."""


Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a method on a data set.

    Attributes:
        name: its name, unique within the protocol.
        value: the figure; None if nothing defines it, such as a ratio without any element.
        better: which values are good; None if the figure only describes.
        percent: whether people read it times 100.
    """

    name: str
    value: float | None
    better: Better | None = "higher"
    percent: bool = True

    @property
    def shown(self) -> str:
        """The value as people read it."""
        if self.value is None:
            return "undefined"
        return f"{100 * self.value:.2f}" if self.percent else f"{self.value:.4g}"


class Protocol(ABC):
    """One way to measure maps.

    Attributes:
        name: its name on the command line.
        title: its name for people.
        conventions: all choices that its figures depend on, one sentence each.
        needs: what the annotations must have; any one of them is enough.
        compares_classes: whether pictures are compared with all classes of the data set, so that
            the model must take each of their names.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    conventions: ClassVar[tuple[str, ...]]
    needs: ClassVar[frozenset[Provision]]
    compares_classes: ClassVar[bool] = False

    @property
    def definition(self) -> str:
        """The name and the conventions: results under other conventions are other results."""
        return "\n".join((self.name, *self.conventions))

    @abstractmethod
    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """Measure the maps of one method on each case of a batch.

        Raises:
            LegradError: the model does not take a class or an option.
        """

    @abstractmethod
    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """Compute the figures of all samples."""


def content_size(geometry: Geometry) -> tuple[int, int]:
    """Return (width, height) of the picture in the model's input, in pixels."""
    left, top, right, bottom = geometry.content_box
    return right - left, bottom - top


def enlarged(maps: NDArray[np.floating], geometry: Geometry) -> NDArray[np.float32]:
    """Interpolate maps bilinearly to the picture in the model's input: [targets, height, width]."""
    return upsample(maps, geometry, content_size(geometry))


def stretched(heatmaps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch each map to 0 to 1; a constant one becomes 0."""
    return normalize(heatmaps, "each")


def fitted(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """Resize a mask to the picture in the model's input, nearest pixel."""
    resized = Image.fromarray(mask.astype(np.uint8)).resize(
        content_size(geometry), Image.Resampling.NEAREST
    )
    return np.asarray(resized) > 0


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are defined; None without any."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def mean_by_class(names: Sequence[str], values: Sequence[float | None]) -> float | None:
    """Return the mean over classes of the means of each class."""
    by_class: dict[str, list[float | None]] = {}
    for name, value in zip(names, values, strict=True):
        by_class.setdefault(name, []).append(value)
    return mean(mean(each) for each in by_class.values())
