"""Computations whose results are fetched one call behind, as the service's workers fetch them."""

from collections.abc import Callable
from typing import Protocol

import torch

from benchmarks.accelerator.cards import synchronize


class Pending(Protocol):
    """A result that the device computes."""

    def finish(self) -> object:
        """Wait for the device."""


Launch = Callable[[], Pending | None]
"""Begins one computation; returns its result, or None where nothing is fetched."""


def run(launch: Launch, loops: int, device: torch.device) -> None:
    """Launch a computation a number of times; finish each one after the next one is launched."""
    running: Pending | None = None
    with torch.no_grad():
        for _ in range(loops):
            launched = launch()
            if running is not None:
                running.finish()
            running = launched
        if running is not None:
            running.finish()
    synchronize(device)
