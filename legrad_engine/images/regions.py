"""Regions of a picture where a map is high."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Geometry, LineSamples, evenly, sample_line
from legrad_engine.images.labelling import Runs, label
from legrad_engine.images.rendering import normalize

DEFAULT_THRESHOLD = 0.5
MAX_REGIONS = 32

# Samples for each patch along a side: as many as fit into _SAMPLES along the longer side of the
# grid. They are odd, so that the centres of patches are among them. Between the centres a map is
# linear along rows and columns, so that its extremes, and where it crosses a threshold on the way
# from one sample to the next, are exact.
_SAMPLES_OF_PATCH = (7, 5, 3)
_SAMPLES = 128


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
    values = normalize(down.matrix @ maps @ across.matrix.T)
    above = values >= threshold
    runs = label(above)
    found: list[list[Region]] = [[] for _ in maps]
    if not runs.count:
        return found
    measured = _measure(values, above, runs, down, across)
    edges = _Edges(values.ravel(), runs, threshold)
    left, right = edges.along_columns(across)
    top, bottom = edges.along_rows(down, len(across.centres))
    peak_x, peak_y = across.pixels(measured.peak_columns), down.pixels(measured.peak_rows)
    heat = measured.heat.tolist()
    for index in np.argsort(-measured.heat, kind="stable").tolist():
        regions = found[measured.targets[index]]
        if len(regions) == MAX_REGIONS:
            continue
        x, y = peak_x[index], peak_y[index]
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
                mean=heat[index] / measured.areas[index],
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

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """Weights [samples, cells] that interpolate the cells."""
        return self.samples.matrix()

    def pixels(self, samples: NDArray[np.intp]) -> list[int]:
        """Return the pixels in which samples lie."""
        pixels: list[int] = np.minimum(
            self.centres[samples].astype(np.intp), self.side - 1
        ).tolist()
        return pixels


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
    """Numbers of each region, in the order of their first samples.

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
    peak_rows: NDArray[np.intp]
    peak_columns: NDArray[np.intp]


def _measure(
    values: NDArray[np.float32], above: NDArray[np.bool_], runs: Runs, down: _Line, across: _Line
) -> _Measures:
    """Measure each region by its runs, which are far fewer than its samples."""
    lengths = runs.stops - runs.starts
    # Of the first sample of each run, among the samples of all regions.
    places = np.cumsum(lengths) - lengths
    heights = down.shares[runs.rows % len(down.shares)]
    widths = np.concatenate([[0.0], np.cumsum(across.shares)])
    areas = heights * (widths[runs.stops] - widths[runs.starts])
    heat = heights * np.add.reduceat((values * across.shares)[above], places)
    peaks_of_runs = np.maximum.reduceat(values[above], places)
    peaks = np.zeros(runs.count, np.float32)
    np.maximum.at(peaks, runs.parts, peaks_of_runs)
    at_peak = np.flatnonzero(peaks_of_runs == peaks[runs.parts])
    run = _first_of_each(runs.parts[at_peak], at_peak, runs.count)
    region, samples = _samples_of(runs, run, values.shape[-1])
    at_peak = np.flatnonzero(values.ravel()[samples] == peaks[region])
    sample = _first_of_each(region[at_peak], samples[at_peak], runs.count)
    targets, rows, columns = np.unravel_index(sample, values.shape)
    return _Measures(
        targets=targets.tolist(),
        areas=np.bincount(runs.parts, areas).tolist(),
        heat=np.bincount(runs.parts, heat).astype(np.float64),
        peaks=peaks.tolist(),
        peak_rows=rows,
        peak_columns=columns,
    )


def _first_of_each(
    regions: NDArray[np.intp], values: NDArray[np.intp], count: int
) -> NDArray[np.intp]:
    """Return the first value of each region; every region has one."""
    first = np.empty(count, np.intp)
    # Later assignments win, so the order is reversed.
    first[regions[::-1]] = values[::-1]
    return first


def _samples_of(
    runs: Runs, chosen: NDArray[np.intp], columns: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the samples of some runs, one run after the other.

    Args:
        runs: all runs.
        chosen: indices of some of them.
        columns: number of samples of a row.

    Returns:
        For each sample, the position of its run among the chosen ones, and its place among all
        samples.
    """
    lengths = (runs.stops - runs.starts)[chosen]
    position = np.repeat(np.arange(len(chosen)), lengths)
    begin = runs.rows[chosen] * columns + runs.starts[chosen] - (np.cumsum(lengths) - lengths)
    return position, begin[position] + np.arange(len(position))


@dataclass(frozen=True)
class _Edges:
    """Finds the edges of regions between samples.

    Attributes:
        values: the values of the samples of all maps, in one row.
        runs: the runs of the regions.
        threshold: of the regions.
    """

    values: NDArray[np.float32]
    runs: Runs
    threshold: float

    def along_columns(self, line: _Line) -> tuple[list[int], list[int]]:
        """Return the left and the right edge of each region in pixels; the right is exclusive."""
        runs = self.runs
        first = runs.rows * len(line.centres) + runs.starts
        last = first + runs.stops - runs.starts - 1
        left = self._first_pixels(runs.parts, first, runs.starts, -1, line, 1)
        right = self._first_pixels(runs.parts, last, runs.stops - 1, 1, line, 1)
        return left.tolist(), (line.side - right).tolist()

    def along_rows(self, line: _Line, columns: int) -> tuple[list[int], list[int]]:
        """Return the upper and the lower edge of each region in pixels; the lower is exclusive.

        Only the samples of a region's first and last row can have the outermost neighbours.

        Args:
            line: the samples along the columns.
            columns: number of samples of a row.
        """
        runs = self.runs
        first_rows = _first_of_each(runs.parts, runs.rows, runs.count)
        last_rows = _first_of_each(runs.parts[::-1], runs.rows[::-1], runs.count)
        edges = []
        for rows, step in ((first_rows, -1), (last_rows, 1)):
            chosen = np.flatnonzero(runs.rows == rows[runs.parts])
            position, samples = _samples_of(runs, chosen, columns)
            parts = runs.parts[chosen][position]
            row = samples // columns % len(line.centres)
            edges.append(self._first_pixels(parts, samples, row, step, line, columns))
        top, bottom = edges
        return top.tolist(), (line.side - bottom).tolist()

    def _first_pixels(
        self,
        parts: NDArray[np.intp],
        inside: NDArray[np.intp],
        position: NDArray[np.intp],
        step: int,
        line: _Line,
        stride: int,
    ) -> NDArray[np.intp]:
        """Find the first pixel of each region whose centre lies in the region.

        Args:
            parts: the region of each sample at its edge.
            inside: places of those samples.
            position: positions of those samples along the axis.
            step: from them to their neighbours outside: -1 towards the start of the axis, from
                which pixels are counted, or 1 towards its end.
            line: the samples along the axis.
            stride: distance of neighbours along the axis.
        """
        centres = line.centres
        distances = centres if step < 0 else line.side - centres
        first = np.full(self.runs.count, np.inf)
        outside = position + step
        has_neighbour = (outside >= 0) & (outside < len(centres))
        first[parts[~has_neighbour]] = 0
        parts, inside = parts[has_neighbour], inside[has_neighbour]
        position, outside = position[has_neighbour], outside[has_neighbour]
        before, after = self.values[inside + step * stride], self.values[inside]
        way = np.abs(centres[position] - centres[outside])
        crossings = distances[outside] + way * ((self.threshold - before) / (after - before))
        np.minimum.at(first, parts, crossings)
        return np.maximum(np.ceil(first - 0.5), 0).astype(np.intp)
