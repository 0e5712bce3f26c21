"""Fitting of a picture to a model's input, and mapping of patches back to its pixels.

Three coordinate systems, all with the origin at the top left and x to the right:

- image: pixels of the upright original picture;
- input: pixels of the model's input;
- grid: patches, so that patch (row, column) covers the unit square from (column, row).

A box is (left, top, right, bottom); right and bottom are exclusive edges.
"""

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.fits import Fit as Fit

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Mapping between one picture, the model input made from it and the patch grid.

    Attributes:
        image_size: (width, height) of the upright original, in pixels.
        input_size: (width, height) of the model input, in pixels; a whole number of patches.
        content_box: Box of the picture in the input, in input pixels. The rest is padding.
        patch_size: (height, width) of one patch, in input pixels.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    content_box: tuple[int, int, int, int]
    patch_size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch grid."""
        return self.input_size[1] // self.patch_size[0], self.input_size[0] // self.patch_size[1]

    @property
    def content_cells(self) -> tuple[slice, slice]:
        """(rows, columns) of the patches whose centre shows the picture; never empty."""
        left, top, right, bottom = self.content_box
        height, width = self.patch_size
        return _cells_between(top, bottom, height), _cells_between(left, right, width)

    def input_to_image(self, box: Box) -> Box:
        """Map a box from input pixels to image pixels, clipped to the picture."""
        left, top, right, bottom = box
        return (
            self._to_image(left, axis=0),
            self._to_image(top, axis=1),
            self._to_image(right, axis=0),
            self._to_image(bottom, axis=1),
        )

    def image_to_input(self, box: Box) -> Box:
        """Map a box from image pixels to input pixels."""
        left, top, right, bottom = box
        return (
            self._to_input(left, axis=0),
            self._to_input(top, axis=1),
            self._to_input(right, axis=0),
            self._to_input(bottom, axis=1),
        )

    def grid_to_image(self, box: Box) -> Box:
        """Map a box from grid units, (columns, rows), to image pixels, clipped to the picture."""
        left, top, right, bottom = box
        height, width = self.patch_size
        return self.input_to_image((left * width, top * height, right * width, bottom * height))

    def _to_image(self, position: float, axis: Literal[0, 1]) -> float:
        start, stop = self.content_box[axis], self.content_box[axis + 2]
        share = (position - start) / (stop - start)
        return min(max(share, 0.0), 1.0) * self.image_size[axis]

    def _to_input(self, position: float, axis: Literal[0, 1]) -> float:
        start, stop = self.content_box[axis], self.content_box[axis + 2]
        return start + position / self.image_size[axis] * (stop - start)


def plan(
    image_size: tuple[int, int],
    *,
    size: int | tuple[int, int],
    patch_size: tuple[int, int],
    fit: Fit,
) -> Geometry:
    """Decide how a picture is fitted to the model input.

    Args:
        image_size: (width, height) of the upright original, in pixels.
        size: Side of the square input in pixels, or its (width, height). For ``native`` it sets the
            number of patches.
        patch_size: (height, width) of one patch in input pixels.
        fit: ``squash`` resizes the whole picture to the size. ``pad`` keeps the aspect ratio and
            centres the picture in the size. ``native`` keeps the aspect ratio to within whole
            patches and uses about as many patches as the size has, never more.

    Raises:
        InvalidOptionError: The size is not a whole number of patches, or the fit is unknown.
    """
    if isinstance(size, int):
        _check_size(size, patch_size)
    whole_width, whole_height = (size, size) if isinstance(size, int) else size
    width, height = image_size
    whole = whole_width, whole_height
    if fit == "squash":
        return Geometry(image_size, whole, (0, 0, *whole), patch_size)
    if fit == "pad":
        scale = min(whole_width / width, whole_height / height)
        content_width = min(whole_width, max(1, round(width * scale)))
        content_height = min(whole_height, max(1, round(height * scale)))
        left, top = (whole_width - content_width) // 2, (whole_height - content_height) // 2
        content_box = (left, top, left + content_width, top + content_height)
        return Geometry(image_size, whole, content_box, patch_size)
    if fit == "native":
        rows, columns = _native_grid(image_size, whole, patch_size)
        input_size = columns * patch_size[1], rows * patch_size[0]
        return Geometry(image_size, input_size, (0, 0, *input_size), patch_size)
    raise InvalidOptionError(
        f"fit {fit!r} is unknown: use one of {', '.join(get_args(Fit))}.", field="fit"
    )


def upsample(
    maps: NDArray[np.floating], geometry: Geometry, output_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Interpolate maps over patches to maps over the picture, bilinearly.

    At the input size this is ``torch.nn.functional.interpolate(mode="bilinear",
    align_corners=False)`` followed by a crop of the padding. At any other size each output pixel
    samples the grid under its own centre, so that nothing is interpolated twice.

    Args:
        maps: [targets, rows, columns], any float dtype.
        geometry: The geometry of the picture that the maps belong to.
        output_size: (width, height) of the result in pixels; it spans the picture, not the padding.

    Returns:
        float32 [targets, height, width].
    """
    down, across = sampling(geometry, output_size)
    upsampled: NDArray[np.float32] = (
        down.matrix() @ maps.astype(np.float32, copy=False) @ across.matrix().T
    )
    return upsampled


@dataclass(frozen=True)
class LineSamples:
    """Positions on a line of cells, each between the centres of two neighbours.

    Attributes:
        lower: intp [samples], ascending: the neighbour before each position.
        upper: intp [samples]: the neighbour after it, or the same one at the ends of the line.
        fraction: float [samples]: the distance from the neighbour before, 0 to 1.
        cells: number of cells.
    """

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    fraction: NDArray[np.float64]
    cells: int

    def matrix(self) -> NDArray[np.float32]:
        """Weights [samples, cells] that interpolate linearly."""
        matrix = np.zeros((len(self.lower), self.cells), np.float32)
        sample = np.arange(len(self.lower))
        matrix[sample, self.upper] = self.fraction
        matrix[sample, self.lower] += (1 - self.fraction).astype(np.float32)
        return matrix

    def runs(self) -> list[slice]:
        """Group the samples by their neighbours, in order."""
        starts = np.flatnonzero(np.diff(self.lower, prepend=-1)).tolist()
        return [slice(*run) for run in pairwise([*starts, len(self.lower)])]

    def ends(self) -> "LineSamples":
        """Take the first and last sample of each run, where interpolated values are extreme."""
        kept = [place for run in self.runs() for place in {run.start, run.stop - 1}]
        kept.sort()
        return LineSamples(self.lower[kept], self.upper[kept], self.fraction[kept], self.cells)


def sampling(geometry: Geometry, output_size: tuple[int, int]) -> tuple[LineSamples, LineSamples]:
    """Place the pixels of a drawing on the patch grid.

    Args:
        geometry: the geometry of the picture.
        output_size: (width, height) of the drawing; it spans the picture, not the padding.

    Returns:
        The samples of the rows and of the columns.
    """
    left, top, right, bottom = geometry.content_box
    rows, columns = geometry.grid
    width, height = output_size
    return (
        sample_line(rows, geometry.patch_size[0], evenly(top, bottom, height)),
        sample_line(columns, geometry.patch_size[1], evenly(left, right, width)),
    )


def sample_line(cells: int, cell_length: int, positions: NDArray[np.float64]) -> LineSamples:
    """Sample a line of cells.

    Args:
        cells: number of cells.
        cell_length: length of a cell, in input pixels.
        positions: [samples], ascending, in input pixels.
    """
    on_grid = np.clip(positions / cell_length - 0.5, 0, cells - 1)
    lower = on_grid.astype(np.intp)
    return LineSamples(lower, np.minimum(lower + 1, cells - 1), on_grid - lower, cells)


def evenly(start: float, stop: float, samples: int) -> NDArray[np.float64]:
    """Return the centres of samples that divide a line into equal parts."""
    steps: NDArray[np.float64] = np.arange(samples, dtype=np.float64) + 0.5
    return start + steps * ((stop - start) / samples)


def drawing_size(image_size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return the (width, height) of an image's heatmaps and overlays: the image's, or smaller.

    Args:
        image_size: (width, height) of the upright original, in pixels.
        max_side: the longest side allowed, in pixels.
    """
    scale = min(1.0, max_side / max(image_size))
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def _cells_between(start: int, stop: int, cell_length: int) -> slice:
    first = math.ceil(start / cell_length - 0.5)
    last = math.ceil(stop / cell_length - 0.5)
    if last > first:
        return slice(first, last)
    # The picture is a strip too thin to cover a patch centre: take the patch that it crosses.
    through = (start + stop) // (2 * cell_length)
    return slice(through, through + 1)


def _native_grid(
    image_size: tuple[int, int], whole: tuple[int, int], patch_size: tuple[int, int]
) -> tuple[int, int]:
    width, height = image_size
    budget = (whole[1] // patch_size[0]) * (whole[0] // patch_size[1])
    scale = math.sqrt(whole[0] * whole[1] / (width * height))
    exact_rows, exact_columns = height * scale / patch_size[0], width * scale / patch_size[1]

    def neighbours(exact: float) -> set[int]:
        return {min(max(1, side), budget) for side in (math.floor(exact), math.ceil(exact))}

    def cost(grid: tuple[int, int]) -> float:
        # Distortion has double weight; unequal weights also avoid ties between roundings.
        rows, columns = grid
        distortion = abs(math.log(columns / rows * exact_rows / exact_columns))
        return 2 * distortion + math.log(budget / (rows * columns))

    candidates = product(neighbours(exact_rows), neighbours(exact_columns))
    return min((grid for grid in candidates if grid[0] * grid[1] <= budget), key=cost)


def _check_size(size: int, patch_size: tuple[int, int]) -> None:
    step = math.lcm(*patch_size)
    if size > 0 and size % step == 0:
        return
    below = max(size, 0) // step * step
    nearest = f"{below} or {below + step}" if below else str(step)
    raise InvalidOptionError(
        f"size {size} is not a positive multiple of the model's patch, {step} pixels: "
        f"use {nearest}.",
        field="size",
    )
