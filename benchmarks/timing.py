"""Timing of several functions in turns, so that other load slows all of them equally."""

import statistics
import time
from collections.abc import Callable, Mapping

Samples = dict[str, list[float]]


def timed(work: Callable[[], object]) -> float:
    """Time one call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleave(
    measures: Mapping[str, Callable[[], float]], repeats: int, warm_up: int = 1
) -> Samples:
    """Call every measure in turns.

    Args:
        measures: functions that return the seconds of their work.
        repeats: number of measured rounds.
        warm_up: number of rounds before them that are not measured.

    Returns:
        The seconds of every measured round, by name.
    """
    samples: Samples = {name: [] for name in measures}
    names = list(measures)
    for turn in range(-warm_up, repeats):
        # Each round starts with another measure, because a core may be warm after a long one.
        offset = turn % len(names)
        for name in names[offset:] + names[:offset]:
            seconds = measures[name]()
            if turn >= 0:
                samples[name].append(seconds)
    return samples


def ratio(samples: Samples, numerator: str, denominator: str) -> float:
    """Divide one median by another."""
    return statistics.median(samples[numerator]) / statistics.median(samples[denominator])


def details(samples: Samples, *names: str) -> dict[str, object]:
    """Collect the medians and samples behind a figure."""
    return {
        name: {"median_seconds": statistics.median(samples[name]), "seconds": samples[name]}
        for name in names
    }
