"""Connected parts of masks.

SciPy has this function, but takes 0.6 s of processor time to import, in each picture process's
launcher and for each short command.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Runs:
    """The runs of masks, in order: neighbouring places of one row, with none before or behind.

    Attributes:
        rows: the row of each run, counted through all masks.
        starts: its first column.
        stops: the column behind its last one.
        parts: the number of its connected part, from 0 in the order of the parts' first places.
        count: number of parts.
    """

    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    stops: NDArray[np.intp]
    parts: NDArray[np.intp]
    count: int


def label(masks: NDArray[np.bool_]) -> Runs:
    """Find the connected parts of masks, diagonal neighbours included.

    Each row is cut into runs, the runs that touch each other in neighbouring rows are joined, and
    the first run gives a part its place among the others.

    Args:
        masks: ``[masks, rows, columns]``; no part extends over several masks.
    """
    count, height, width = masks.shape
    # One empty row behind each mask keeps masks apart; one empty column on each side ends runs.
    padded = np.zeros((count, height + 1, width + 2), np.bool_)
    padded[:, :-1, 1:-1] = masks
    edges = np.flatnonzero(padded[:, :, 1:] != padded[:, :, :-1])
    starts, stops = edges[::2], edges[1::2]
    stride = width + 1
    rows = starts // stride
    first_runs = _joined(starts, stops, stride)
    is_first = first_runs == np.arange(len(starts))
    return Runs(
        rows=rows - rows // (height + 1),
        starts=starts - rows * stride,
        stops=stops - rows * stride,
        parts=(np.cumsum(is_first) - 1)[first_runs],
        count=int(np.count_nonzero(is_first)),
    )


def _joined(starts: NDArray[np.intp], stops: NDArray[np.intp], stride: int) -> NDArray[np.intp]:
    """Return for each run the first run of its part.

    Args:
        starts: the first places of the runs, ascending, in rows of ``stride`` places.
        stops: the places behind the runs.
        stride: number of places of a row.
    """
    # Runs of the row above that touch a run are those from the first one that does not stop too
    # early to the last one that does not start too late.
    first = np.searchsorted(stops, starts - stride)
    counts = np.searchsorted(starts, stops - stride, side="right") - first
    # Each run follows the first one above it, up to a run without any above.
    roots = _followed(np.where(counts > 0, first, np.arange(len(starts))))
    # The others above it join parts, which is rare.
    joining = np.flatnonzero(counts > 1)
    others = counts[joining] - 1
    lower = np.repeat(joining, others)
    within = np.arange(len(lower)) - np.repeat(np.cumsum(others) - others, others)
    upper = np.repeat(first[joining], others) + 1 + within
    while True:
        pairs = roots[lower], roots[upper]
        least = np.minimum(*pairs)
        if np.array_equal(*pairs):
            return roots
        joined = roots.copy()
        for each in pairs:
            np.minimum.at(joined, each, least)
        roots = _followed(joined)


def _followed(links: NDArray[np.intp]) -> NDArray[np.intp]:
    """Follow links from each run to an earlier one, until a run that is linked to itself."""
    while True:
        further = links[links]
        if (further == links).all():
            return links
        links = further
