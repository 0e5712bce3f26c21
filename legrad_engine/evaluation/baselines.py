"""Baseline maps that ignore the picture; compare the figures of a method with theirs."""

import hashlib

import numpy as np
from numpy.typing import NDArray

BASELINES = ("random", "centre")
"""Names that stand for a method."""


def generator_of(*names: str) -> np.random.Generator:
    """Return a generator seeded by names: a resumed run draws the same numbers."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def centre_map(grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return a Gaussian around the middle of a grid of (rows, columns) patches."""
    rows, columns = (np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in grid)
    heatmap: NDArray[np.float64] = np.exp(-2 * (rows[:, None] ** 2 + columns[None, :] ** 2))
    return heatmap


def random_map(grid: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw uniform noise over a grid of (rows, columns) patches."""
    return generator.random(grid)


def baseline_map(
    name: str, grid: tuple[int, int], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the map of a baseline, by its name in :data:`BASELINES`."""
    return centre_map(grid) if name == "centre" else random_map(grid, generator)
