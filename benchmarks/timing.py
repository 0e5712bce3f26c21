"""Timing several things in turns, so that whatever slows the machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

Samples = dict[str, list[float]]


def timed(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleave(
    measures: Mapping[str, Callable[[], float]], repeats: int, warm_up: int = 1
) -> Samples:
    """Calls every measure in turns.

    Args:
        measures: each returns the seconds that its work took.
        repeats: rounds that count.
        warm_up: rounds before them that do not.

    Returns:
        The seconds of every counted round, by name.
    """
    samples: Samples = {name: [] for name in measures}
    names = list(measures)
    for turn in range(-warm_up, repeats):
        # Each round begins with another one: whoever runs after a long one may find a warm core.
        offset = turn % len(names)
        for name in names[offset:] + names[:offset]:
            seconds = measures[name]()
            if turn >= 0:
                samples[name].append(seconds)
    return samples


def ratio(samples: Samples, numerator: str, denominator: str) -> float:
    """One median over another."""
    return statistics.median(samples[numerator]) / statistics.median(samples[denominator])


def details(samples: Samples, *names: str) -> dict[str, object]:
    """The medians and samples behind a figure."""
    return {
        name: {"median_seconds": statistics.median(samples[name]), "seconds": samples[name]}
        for name in names
    }
