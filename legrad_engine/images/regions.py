"""Regions of a picture where a map is high."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Geometry, LineSamples, evenly, sample_line
from legrad_engine.images.rendering import normalize

DEFAULT_THRESHOLD = 0.5
MAX_REGIONS = 32

# Samples for each patch along a side: as many as fit into _SAMPLES along the longer side of the
# grid. They are odd, so that the centres of patches are among them. Between the centres a map is
# linear along rows and columns, so that its extremes, and where it crosses a threshold on the way
# from one sample to the next, are exact.
_SAMPLES_OF_PATCH = (7, 5, 3)
_SAMPLES = 80

# Neighbours of a sample: all around in its own map, none in other maps.
_AROUND = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


@dataclass(frozen=True)
class Region:
    """Connected part of the picture where the min-max normalised map reaches the threshold.

    Attributes:
        box: (left, top, right, bottom) in pixels of the original picture; right and bottom are
            exclusive.
        area: Share of the picture, 0 to 1.
        peak: Largest value inside, 0 to 1.
        peak_position: (x, y) of the peak in pixels of the original picture.
        mean: Mean value inside, 0 to 1.
    """

    box: tuple[int, int, int, int]
    area: float
    peak: float
    peak_position: tuple[int, int]
    mean: float


def find_regions(
    heatmap: NDArray[np.floating], geometry: Geometry, threshold: float = DEFAULT_THRESHOLD
) -> list[Region]:
    """Find the connected regions of one map, diagonal neighbours included.

    Args:
        heatmap: [rows, columns], raw values over the patch grid.
        geometry: The geometry of the picture that the map belongs to.
        threshold: Share of the map's own range, above 0 and at most 1.

    Returns:
        At most MAX_REGIONS regions, those with the most heat (mean times area) first; no region for
        a constant map.

    Raises:
        InvalidOptionError: The threshold is not above 0 and at most 1.
    """
    return find_all_regions(heatmap[np.newaxis], geometry, threshold)[0]


def find_all_regions(
    maps: NDArray[np.floating], geometry: Geometry, threshold: float = DEFAULT_THRESHOLD
) -> list[list[Region]]:
    """Find the regions of all maps of one picture, see :func:`find_regions`.

    Args:
        maps: [targets, rows, columns], raw values over the patch grid.
        geometry: The geometry of the picture.
        threshold: Share of each map's own range, above 0 and at most 1.

    Returns:
        The regions of each map.

    Raises:
        InvalidOptionError: The threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise InvalidOptionError(
            f"threshold {threshold} is not above 0 and at most 1.", field="threshold"
        )
    down, across = _lines(geometry)
    values = normalize(down.samples.matrix() @ maps @ across.samples.matrix().T)
    above = values >= threshold
    labels, count = ndimage.label(above, structure=_AROUND)
    found: list[list[Region]] = [[] for _ in maps]
    if not count:
        return found
    measured = _measure(values, labels, count, np.outer(down.shares, across.shares))
    (left, right), (top, bottom) = (
        _edges(np.moveaxis(values, axis, 0), np.moveaxis(labels, axis, 0), count, threshold, line)
        for axis, line in ((2, across), (1, down))
    )
    for index in np.argsort(-measured.heat, kind="stable").tolist():
        regions = found[measured.targets[index]]
        if len(regions) == MAX_REGIONS:
            continue
        x, y = across.pixel(measured.peak_columns[index]), down.pixel(measured.peak_rows[index])
        regions.append(
            Region(
                box=(
                    min(left[index], x),
                    min(top[index], y),
                    max(right[index], x + 1),
                    max(bottom[index], y + 1),
                ),
                area=measured.areas[index],
                peak=measured.peaks[index],
                peak_position=(x, y),
                mean=float(measured.heat[index]) / measured.areas[index],
            )
        )
    return found


@dataclass(frozen=True)
class _Line:
    """Samples along one side of the picture.

    Attributes:
        samples: where they lie on the grid.
        centres: [samples], their positions in pixels of the picture.
        shares: [samples], the share of the side that each stands for.
        side: side of the picture in pixels.
    """

    samples: LineSamples
    centres: NDArray[np.float64]
    shares: NDArray[np.float64]
    side: int

    def pixel(self, sample: int) -> int:
        """Return the pixel in which a sample lies."""
        return min(int(self.centres[sample]), self.side - 1)


def _lines(geometry: Geometry) -> tuple[_Line, _Line]:
    """Choose the samples of the rows and the columns."""
    fitting = (each for each in _SAMPLES_OF_PATCH if each * max(geometry.grid) <= _SAMPLES)
    each = next(fitting, _SAMPLES_OF_PATCH[-1])
    left, top, right, bottom = geometry.content_box
    rows, columns = geometry.grid
    height, width = geometry.patch_size
    return (
        _line(rows, height, top, bottom, geometry.image_size[1], each),
        _line(columns, width, left, right, geometry.image_size[0], each),
    )


def _line(cells: int, cell_length: int, start: int, stop: int, side: int, each: int) -> _Line:
    """Choose samples at and between the centres of cells, and at both ends of the picture.

    Where that is more than the picture has pixels, each pixel is a sample.
    """
    step = cell_length / each
    first, last = (math.ceil(position / step - 0.5) for position in (start, stop))
    inside = (np.arange(first, last) + 0.5) * step
    positions = np.concatenate([[start], inside[(inside > start) & (inside < stop)], [stop]])
    if side <= len(positions):
        positions = evenly(start, stop, side)
    between = (positions[1:] + positions[:-1]) / 2
    shares = np.diff(between, prepend=start, append=stop) / (stop - start)
    centres = (positions - start) * (side / (stop - start))
    return _Line(sample_line(cells, cell_length, positions), centres, shares, side)


@dataclass(frozen=True)
class _Measures:
    """Numbers of each region, in the order of the labels.

    Attributes:
        targets: index of its map.
        areas: its share of the picture.
        heat: its mean times its area.
        peaks: its largest value.
        peak_rows: the row of the sample that has it.
        peak_columns: the column of that sample.
    """

    targets: list[int]
    areas: list[float]
    heat: NDArray[np.float64]
    peaks: list[float]
    peak_rows: list[int]
    peak_columns: list[int]


def _measure(
    values: NDArray[np.float32],
    labels: NDArray[np.integer],
    count: int,
    shares: NDArray[np.float64],
) -> _Measures:
    """Measure each region, given the share of the picture that each sample stands for."""
    places = np.flatnonzero(labels)
    regions = labels.ravel()[places] - 1
    inside = values.ravel()[places]
    areas = shares.ravel()[places % shares.size]
    peaks = np.zeros(count, np.float32)
    np.maximum.at(peaks, regions, inside)
    at_peak = np.flatnonzero(inside == peaks[regions])
    # The first of equal peaks: later assignments win, so the order is reversed.
    first = np.empty(count, np.intp)
    first[regions[at_peak][::-1]] = places[at_peak][::-1]
    targets, rows, columns = np.unravel_index(first, values.shape)
    return _Measures(
        targets=targets.tolist(),
        areas=np.bincount(regions, areas, minlength=count).tolist(),
        heat=np.bincount(regions, areas * inside, minlength=count).astype(np.float64),
        peaks=peaks.tolist(),
        peak_rows=rows.tolist(),
        peak_columns=columns.tolist(),
    )


def _edges(
    values: NDArray[np.float32],
    labels: NDArray[np.integer],
    count: int,
    threshold: float,
    line: _Line,
) -> tuple[list[int], list[int]]:
    """Find the lower and upper edge of each region along the first axis.

    Args:
        values: [samples, ...].
        labels: the regions, of the same shape.
        count: number of regions.
        threshold: of the regions.
        line: the samples along the axis.

    Returns:
        Pixels; the upper edges are exclusive.
    """
    lower = _first_pixels(values, labels, count, threshold, line.centres)
    upper = line.side - _first_pixels(
        values[::-1], labels[::-1], count, threshold, (line.side - line.centres)[::-1]
    )
    return lower.tolist(), upper.tolist()


def _first_pixels(
    values: NDArray[np.float32],
    labels: NDArray[np.integer],
    count: int,
    threshold: float,
    centres: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Find the first pixel of each region along the first axis whose centre lies in the region."""
    first = np.full(count, np.inf)
    at_border = labels[0]
    first[at_border[at_border > 0] - 1] = 0
    # nonzero is several times slower on arrays of several dimensions.
    entered = np.flatnonzero((labels[1:] > 0) & (labels[:-1] == 0))
    before, after = values[:-1].reshape(-1)[entered], values[1:].reshape(-1)[entered]
    sample = entered // labels[0].size
    way = np.diff(centres)[sample]
    crossings = centres[sample] + way * ((threshold - before) / (after - before))
    np.minimum.at(first, labels[1:].reshape(-1)[entered] - 1, crossings)
    return np.maximum(np.ceil(first - 0.5), 0).astype(np.intp)
