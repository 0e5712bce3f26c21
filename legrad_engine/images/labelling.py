"""Connected parts of masks.

SciPy has this function, but takes 0.6 s of processor time to import, in each picture process's
launcher and for each short command.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True)
class Runs:
    """The runs of masks, in order: neighbouring places of one row, with none before or behind.

    Attributes:
        starts: the first place of each run.
        stops: the place behind its last one.
        parts: the number of its connected part, from 0 in the order of the parts' first places.
        firsts: the first run of each part.
    """

    starts: NDArray[np.intp]
    stops: NDArray[np.intp]
    parts: NDArray[np.intp]
    firsts: NDArray[np.intp]


def in_line(maps: NDArray[_Value], outside: float) -> NDArray[_Value]:
    """Lay the places of maps out in one line, with places between them that keep them apart.

    Args:
        maps: ``[maps, rows, columns]``.
        outside: the value of one place before each row, and of a row behind each map. A place next
            to one of the map, in any direction, is of the map or has this value. That is so above
            the first map too, whose negative indices count from the end of the line.

    Returns:
        ``[maps * (rows + 1) * (columns + 1)]``.
    """
    count, height, width = maps.shape
    line = np.empty((count, height + 1, width + 1), maps.dtype)
    line[:, :-1, 1:] = maps
    line[:, :, 0] = line[:, -1] = outside
    return line.ravel()


def label(mask: NDArray[np.bool_], height: int, width: int) -> Runs:
    """Find the connected parts of masks, diagonal neighbours included.

    Each row is cut into runs, the runs that touch each other in neighbouring rows are joined, and
    the first run gives a part its place among the others.

    Args:
        mask: all masks :func:`in_line`, apart from each other by places that are not set.
        height: number of rows of a mask.
        width: number of columns of a mask.
    """
    edges = (mask[1:] != mask[:-1]).nonzero()[0] + 1
    starts, stops = edges.reshape(-1, 2).T.copy()
    # Runs of the row above that touch a run are those from the first one that does not stop too
    # early to the last one that does not start too late.
    above = stops.searchsorted(starts - (width + 1))
    counts = starts.searchsorted(stops - (width + 1), side="right") - above
    # Each run follows the first one above it, up to a run without any above.
    roots = np.where(counts > 0, above, np.arange(len(starts)))
    for _ in range((height - 1).bit_length()):
        roots = roots[roots]
    parts, firsts = _numbered(roots)
    # The others above it join parts, which is rare.
    others = range(1, counts.max(initial=0))
    if others:
        lower = [(counts > each).nonzero()[0] for each in others]
        upper = [above[runs] + each for runs, each in zip(lower, others, strict=True)]
        joined, kept = _numbered(
            _joined(parts[np.concatenate(lower)], parts[np.concatenate(upper)], len(firsts))
        )
        parts, firsts = joined[parts], firsts[kept]
    return Runs(starts, stops, parts, firsts)


def _numbered(firsts: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number groups in the order of their first members, which each member tells.

    Returns:
        The number of each member's group, and the first member of each group.
    """
    members = np.arange(len(firsts))
    found = (firsts == members).nonzero()[0]
    numbers = np.empty_like(firsts)
    numbers[found] = members[: len(found)]
    return numbers[firsts], found


def _joined(some: NDArray[np.intp], others: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Return for each part the first of those that pairs of parts join with it."""
    links = np.arange(count)
    while True:
        pairs = links[some], links[others]
        if np.array_equal(*pairs):
            return links
        least = np.minimum(*pairs)
        for each in pairs:
            np.minimum.at(links, each, least)
        while not np.array_equal(further := links[links], links):
            links = further
