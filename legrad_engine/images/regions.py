"""Regions of a picture where a map is high."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Geometry, LineSamples, evenly, sample_line
from legrad_engine.images.labelling import Runs, in_line, label
from legrad_engine.images.rendering import stretch

DEFAULT_THRESHOLD = 0.5
MAX_REGIONS = 32

# Samples for each patch along a side: as many as fit into _SAMPLES along the longer side of the
# grid. They are odd, so that the centres of patches are among them. Between the centres a map is
# linear along rows and columns, so that its extremes, and where it crosses a threshold on the way
# from one sample to the next, are exact.
_SAMPLES_OF_PATCH = (7, 5, 3)
_SAMPLES = 128
# The value between rows and maps: below every threshold.
_OUTSIDE = -1.0


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
    values = (down.samples.matrix @ maps @ across.samples.matrix.T).astype(np.float32, copy=False)
    stretch(values, axes=(1, 2))
    line = in_line(values, _OUTSIDE)
    runs = label(line >= threshold, down.count, across.count)
    found: list[list[Region]] = [[] for _ in maps]
    if not len(runs.starts):
        return found
    survey = _Survey(line, runs, down, across)
    areas, heat = survey.areas_and_heat()
    peaks, targets, rows, columns = survey.peaks()
    left, top, right, bottom = survey.edges(threshold)
    x, y = across.pixels(columns), down.pixels(rows)
    boxes = zip(
        np.minimum(left, x).tolist(),
        np.minimum(top, y).tolist(),
        np.maximum(across.side - right, x + 1).tolist(),
        np.maximum(down.side - bottom, y + 1).tolist(),
        strict=True,
    )
    positions = zip(x.tolist(), y.tolist(), strict=True)
    means = (heat / areas).tolist()
    measured = list(zip(boxes, areas.tolist(), peaks, positions, means, strict=True))
    for index in (-heat).argsort(kind="stable").tolist():
        of_map = found[targets[index]]
        if len(of_map) < MAX_REGIONS:
            box, area, peak, position, mean = measured[index]
            of_map.append(Region(box, area, peak, position, mean))
    return found


@dataclass(frozen=True)
class _Samples:
    """Samples along one side of all pictures that have the same place in the model's input.

    Attributes:
        grid: where they lie on the grid.
        offsets: [samples], from the start of the picture, in pixels of the input.
        shares: [samples], the share of the side that each stands for.
    """

    grid: LineSamples
    offsets: NDArray[np.float64]
    shares: NDArray[np.float64]

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """Weights [samples, cells] that interpolate the cells."""
        return self.grid.matrix()

    @cached_property
    def widths(self) -> NDArray[np.float64]:
        """The share of the side in front of each sample, and of the whole: [samples + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.shares)])


@dataclass(frozen=True)
class _Line:
    """Samples along one side of a picture.

    Attributes:
        samples: the samples.
        centres: [samples], their positions in pixels of the picture.
        side: side of the picture in pixels.
    """

    samples: _Samples
    centres: NDArray[np.float64]
    side: int

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.centres)

    @cached_property
    def neighbours(self) -> NDArray[np.float64]:
        """Where the neighbours of samples lie, in pixels: [2, 2 * samples].

        The first half is of the neighbours in front, and counts from the start of the side; the
        second is of those behind, and counts from its end. The first row tells the distance of
        each neighbour, and the second how far it is from there to the sample. Nothing lies between
        the outermost samples and the ends.
        """
        table = np.zeros((2, 2, self.count))
        table[0, 0, 1:] = self.centres[:-1]
        table[0, 1, :-1] = self.side - self.centres[1:]
        table[1, 0, 1:] = table[1, 1, :-1] = np.diff(self.centres)
        return table.reshape(2, -1)

    def pixels(self, samples: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the pixels in which samples lie."""
        return np.minimum(self.centres[samples].astype(np.intp), self.side - 1)


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


# Pictures of one size have the same.
@lru_cache(maxsize=64)
def _line(cells: int, cell_length: int, start: int, stop: int, side: int, each: int) -> _Line:
    """Choose samples at and between the centres of cells, and at both ends of the picture.

    Where that is more than the picture has pixels, each pixel is a sample.
    """
    samples = _usual_samples(cells, cell_length, start, stop, each)
    if side <= len(samples.offsets):
        samples = _samples(cells, cell_length, start, stop, evenly(start, stop, side))
    return _Line(samples, samples.offsets * (side / (stop - start)), side)


# Most pictures of any size have the same.
@lru_cache(maxsize=64)
def _usual_samples(cells: int, cell_length: int, start: int, stop: int, each: int) -> _Samples:
    step = cell_length / each
    first, last = (math.ceil(position / step - 0.5) for position in (start, stop))
    inside = (np.arange(first, last) + 0.5) * step
    positions = np.concatenate([[start], inside[(inside > start) & (inside < stop)], [stop]])
    return _samples(cells, cell_length, start, stop, positions)


def _samples(
    cells: int, cell_length: int, start: int, stop: int, positions: NDArray[np.float64]
) -> _Samples:
    between = (positions[1:] + positions[:-1]) / 2
    shares = np.diff(between, prepend=start, append=stop) / (stop - start)
    return _Samples(sample_line(cells, cell_length, positions), positions - start, shares)


class _Survey:
    """Measures regions by their runs, which are far fewer than their samples."""

    def __init__(self, values: NDArray[np.float32], runs: Runs, down: _Line, across: _Line) -> None:
        """Find the samples of the runs.

        Args:
            values: the values of the samples of all maps, in one line, not negative.
            runs: the runs of the regions.
            down: the rows of samples.
            across: their columns.
        """
        self._values = values
        self._runs = runs
        self._down, self._across = down, across
        self._stride = across.count + 1
        self._lengths = runs.stops - runs.starts
        # Counted through all maps, and from the first of each.
        self._lines = runs.starts // self._stride
        self._rows = self._lines % (down.count + 1)
        self._columns = runs.starts - (self._lines * self._stride + 1)
        # Positions of the first sample of each run among the samples of all runs.
        self._begins = self._lengths.cumsum() - self._lengths
        self._samples = _count_on(runs.starts - self._begins, self._lengths)
        self._inside = values[self._samples]

    def areas_and_heat(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the share of the picture of each region, and its mean times that."""
        samples, columns, parts = self._across.samples, self._columns, self._runs.parts
        heights = self._down.samples.shares[self._rows]
        shares = samples.shares[_count_on(columns - self._begins, self._lengths)]
        heat = heights * np.add.reduceat(self._inside * shares, self._begins)
        areas = heights * (samples.widths[columns + self._lengths] - samples.widths[columns])
        areas, heat = (np.bincount(parts, each).astype(np.float64) for each in (areas, heat))
        return areas, heat

    def peaks(
        self,
    ) -> tuple[list[float], list[int], NDArray[np.intp], NDArray[np.intp]]:
        """Return the largest value of each region; and map, row and column of its first sample."""
        parts = self._runs.parts
        # As bits, floats that are not negative have the same order, and their largest is found
        # faster.
        bits = self._inside.view(np.int32)
        peaks = np.zeros(len(self._runs.firsts), np.int32)
        np.maximum.at(peaks, parts, np.maximum.reduceat(bits, self._begins))
        at_peak = (bits == peaks[parts].repeat(self._lengths)).nonzero()[0][::-1]
        regions = parts[self._begins.searchsorted(at_peak, side="right") - 1]
        samples = np.empty(len(peaks), np.intp)
        # The last assignment to each region counts, which is of its first sample.
        samples[regions] = self._samples[at_peak]
        lines, columns = np.divmod(samples, self._stride)
        targets, rows = np.divmod(lines, self._down.count + 1)
        return peaks.view(np.float32).tolist(), targets.tolist(), rows, columns - 1

    def edges(self, threshold: float) -> NDArray[np.intp]:
        """Return the left, upper, right and lower edge of each region, [4, regions].

        Each is the distance in pixels, from that side of the picture, of the first pixel whose
        centre lies in the region.
        """
        runs, parts, count = self._runs, self._runs.parts, len(self._runs.firsts)
        down, across = self._down, self._across
        upper, lower = self._outer_runs()
        outer = np.concatenate([upper, lower])
        lengths = self._lengths[outer]
        begins = lengths.cumsum() - lengths
        upright = _count_on(runs.starts[outer] - begins, lengths)
        beyond = upright - self._stride
        beyond[begins[len(upper)] :] += 2 * self._stride
        before = self._values[np.concatenate([runs.starts - 1, runs.stops, beyond])]
        after = self._values[np.concatenate([runs.starts, runs.stops - 1, upright])]
        ways = (threshold - before) / (after - before)
        # The samples of a row are equally far from the row beyond: the nearest crossing counts.
        level = 2 * len(parts)
        ways = np.concatenate([ways[:level], np.minimum.reduceat(ways[level:], begins)])
        distances, gaps = np.concatenate([across.neighbours, down.neighbours], axis=1)
        last_columns = self._columns + (self._lengths + (across.count - 1))
        rows = self._rows[outer] + 2 * across.count
        rows[len(upper) :] += down.count
        neighbours = np.concatenate([self._columns, last_columns, rows])
        crossings = distances[neighbours] + gaps[neighbours] * ways
        nearest = np.full(4 * count, np.inf)
        sides = (parts, parts + 2 * count, parts[upper] + count, parts[lower] + 3 * count)
        np.minimum.at(nearest, np.concatenate(sides), crossings)
        return np.maximum(np.ceil(nearest - 0.5), 0).astype(np.intp).reshape(4, count)

    def _outer_runs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the runs in the first and in the last row of their regions.

        Only their samples can have the neighbours that are outermost.
        """
        lines, parts, firsts = self._lines, self._runs.parts, self._runs.firsts
        last = np.empty(len(firsts), np.intp)
        # The last assignment to each region counts.
        last[parts] = lines
        upper = lines == lines[firsts][parts]
        return upper.nonzero()[0], (lines == last[parts]).nonzero()[0]


def _count_on(offsets: NDArray[np.intp], lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number the samples of runs, one run after the other, and add to each its run's offset."""
    counted = offsets.repeat(lengths)
    counted += np.arange(len(counted))
    return counted
