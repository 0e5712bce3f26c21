"""Enlarging of maps to heatmaps in whole levels, for encoding and blending."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.geometry import Geometry, LineSamples, sampling
from legrad_engine.images.rendering import Normalization, is_constant

# Far beyond every map that means something, and far below the overflow of float32.
_LARGEST = 1e30


def enlarge(
    maps: NDArray[np.floating],
    geometry: Geometry,
    output_size: tuple[int, int],
    mode: Normalization = "each",
    full_scale: Literal[255, 65535] = 255,
) -> NDArray[Any]:
    """Upsample, normalise and round the maps of one image in one pass.

    The result is that of :func:`~legrad_engine.images.geometry.upsample`,
    :func:`~legrad_engine.images.rendering.normalize` and
    :func:`~legrad_engine.images.rendering.to_levels`, to within one level. Maps are normalised on
    the patch grid, and pixels are computed in bands that stay in the processor's cache.

    Args:
        maps: [targets, rows, columns], finite.
        geometry: the geometry of the picture that the maps belong to.
        output_size: (width, height) of the result in pixels.
        mode: the normalisation.
        full_scale: the level of 1.

    Returns:
        uint8, or uint16 for 65535, [targets, height, width].

    Raises:
        InvalidOptionError: the mode is unknown.
    """
    down, across = sampling(geometry, output_size)
    levels = np.zeros(
        (len(maps), output_size[1], output_size[0]), np.uint8 if full_scale == 255 else np.uint16
    )
    for target, scaled in enumerate(_normalized(maps, down, across, mode)):
        if scaled is not None:
            # Rounding adds a half, which interpolation keeps as it is.
            grid = (scaled * full_scale + 0.5).astype(np.float32)
            limit = full_scale + 0.5 if mode == "none" else None
            _fill(levels[target], grid @ across.matrix().T, down, limit)
    return levels


def _normalized(
    maps: NDArray[np.floating], down: LineSamples, across: LineSamples, mode: Normalization
) -> list[NDArray[np.float64] | None]:
    """Return the maps over the grid, normalised by the extremes of their pixels.

    A constant map is None. With ``none`` values may lie outside 0 to 1.
    """
    grids = np.clip(maps.astype(np.float64), -_LARGEST, _LARGEST)
    if mode == "none":
        return list(grids)
    if mode not in ("each", "shared"):
        raise InvalidOptionError(
            f"normalize {mode!r} is unknown: use one of {', '.join(get_args(Normalization))}.",
            field="normalize",
        )
    # Between the centres of four patches a map is bilinear, with its extremes at the corners.
    corners = down.ends().matrix() @ grids @ across.ends().matrix().T
    lows, highs = corners.min(axis=(1, 2)), corners.max(axis=(1, 2))
    if mode == "shared" and len(maps):
        lows[:], highs[:] = lows.min(), highs.max()
    constant = is_constant(lows, highs).tolist()
    return [
        None if is_flat else (grid - low) / (high - low)
        for grid, low, high, is_flat in zip(
            grids, lows.tolist(), highs.tolist(), constant, strict=True
        )
    ]


def _fill(
    levels: NDArray[Any], rows: NDArray[np.float32], down: LineSamples, limit: float | None
) -> None:
    """Interpolate rows of the grid, already as wide as the result, downwards into the levels."""
    runs = down.runs()
    band = np.empty((max(run.stop - run.start for run in runs), rows.shape[1]), np.float32)
    weights = np.stack([1 - down.fraction, down.fraction], axis=1).astype(np.float32)
    for run in runs:
        neighbours = rows[[down.lower[run.start], down.upper[run.start]]]
        values = np.matmul(weights[run], neighbours, out=band[: run.stop - run.start])
        if limit is not None:
            np.clip(values, 0, limit, out=values)
        np.copyto(levels[run], values, casting="unsafe")
