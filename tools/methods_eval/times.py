"""Time of explaining one picture by each method, in forward passes of the built-in model."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.timing import interleave
from legrad_engine import Explainer
from legrad_engine.images.inputs import PreparedImage

TARGETS = (1, 8)
REPEATS = 15


def measure(
    explainer: Explainer, picture: PreparedImage, names: Sequence[str], repeats: int = REPEATS
) -> dict[str, dict[str, float]]:
    """Time all methods and a plain forward pass in turns.

    Args:
        explainer: the model.
        picture: the picture.
        names: names of concepts, at least :data:`TARGETS` of them.
        repeats: number of rounds.

    Returns:
        Ratio of the medians by method, then by the number of targets. Texts are encoded beforehand.
    """
    vectors = explainer.text.encode(names)
    pixels = explainer.input_of([picture])
    model: Any = explainer.model

    @torch.no_grad()
    def plain() -> None:
        model.encode_image(pixels)

    def explain(method: str, count: int) -> None:
        trace = explainer.trace([picture], method=method)
        explainer.attribute(trace, vectors[:count])

    works: dict[str, Callable[[], object]] = {"plain": plain}
    for method in explainer.methods:
        for count in TARGETS:
            works[f"{method.name} {count}"] = partial(explain, method.name, count)
    samples = interleave(
        {name: partial(_processor_seconds, work) for name, work in works.items()}, repeats
    )
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {
        method.name: {
            str(count): medians[f"{method.name} {count}"] / medians["plain"] for count in TARGETS
        }
        for method in explainer.methods
    }


def _processor_seconds(work: Callable[[], object]) -> float:
    # Other programs on the machine lengthen the time on the clock, and not in equal shares.
    start = time.process_time()
    work()
    return time.process_time() - start
