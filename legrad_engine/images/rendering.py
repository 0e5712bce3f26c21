"""Rendering of maps as heatmaps and overlays."""

from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from cmap import Colormap
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.errors import InvalidOptionError

Normalization = Literal["each", "shared", "none"]

ColormapName = Literal["turbo", "viridis", "inferno", "magma", "plasma", "cividis"]
COLORMAPS: tuple[ColormapName, ...] = get_args(ColormapName)
DEFAULT_COLORMAP: ColormapName = "turbo"
DEFAULT_ALPHA = 0.6

# Share of the peak from which an overlay has its full opacity. Below it the overlay fades out, so
# that the picture stays legible where the map is low.
_OPAQUE_FROM = 0.6

# The four bytes of a pixel are blended together: as numbers of 16 bits, in one of 64.
_CHANNELS = 4
_ONE = 256
_FLOAT32 = np.finfo(np.float32)
_TINY, _EPSILON, _LARGEST = float(_FLOAT32.tiny), float(_FLOAT32.eps), float(_FLOAT32.max)
# A band of rows stays in the processor's cache from step to step.
_BAND_PIXELS = 2**16


def normalize(maps: NDArray[np.floating], mode: Normalization = "each") -> NDArray[np.float32]:
    """Bring the maps of one image into 0 to 1.

    ``each`` stretches every map from its own minimum to its own maximum. ``shared`` stretches all
    of them by the minimum and maximum over the targets, so that they can be compared. ``none``
    clips the values as they are. A map that is constant to within float32 rounding carries no
    information and becomes all zeros. NaN counts as 0, and an infinity as the largest or smallest
    float32.

    Args:
        maps: [targets, height, width], any float dtype.
        mode: ``each``, ``shared`` or ``none``.

    Returns:
        float32 [targets, height, width] in 0 to 1, a new array.

    Raises:
        InvalidOptionError: The mode is unknown.
    """
    values = np.array(maps, np.float32)
    if mode == "none":
        return np.clip(_finite(values), 0, 1, out=values)
    if mode not in ("each", "shared"):
        raise InvalidOptionError(
            f"normalize {mode!r} is unknown: use one of {', '.join(get_args(Normalization))}.",
            field="normalize",
        )
    stretch(values, tuple(range(1 if mode == "each" else 0, values.ndim)))
    return values


def to_levels(heatmap: NDArray[np.floating], full_scale: Literal[255, 65535] = 255) -> NDArray[Any]:
    """Round a map to whole levels.

    Args:
        heatmap: values in 0 to 1, of any shape.
        full_scale: the level of 1.

    Returns:
        uint8, or uint16 for 65535, of the same shape.
    """
    dtype = np.uint8 if full_scale == 255 else np.uint16
    scaled = heatmap * np.float32(full_scale)
    scaled += 0.5
    return scaled.astype(dtype)


def colorize(heatmap: NDArray[np.floating], colormap: str = DEFAULT_COLORMAP) -> NDArray[np.uint8]:
    """Look up the colour of each value.

    Args:
        heatmap: [height, width] in 0 to 1.
        colormap: One of COLORMAPS.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        InvalidOptionError: The colour map is unknown.
    """
    indexed = Image.fromarray(to_levels(heatmap))
    indexed.putpalette(palette(colormap))
    return np.asarray(indexed.convert("RGB"))


def overlay(
    image: Image.Image,
    heatmap: NDArray[np.floating],
    colormap: str = DEFAULT_COLORMAP,
    alpha: float = DEFAULT_ALPHA,
) -> Image.Image:
    """Blend the coloured heatmap over the picture it explains.

    The opacity grows from 0 where the heatmap is 0 to ``alpha`` at 60% of the range and above.

    Args:
        image: RGB, width x height.
        heatmap: [height, width] in 0 to 1.
        colormap: One of COLORMAPS.
        alpha: Largest opacity of the colour, 0 to 1.

    Returns:
        A new RGB image of the same size.

    Raises:
        InvalidOptionError: The colour map is unknown or alpha is not in 0 to 1.
    """
    return Image.fromarray(Blending(image, colormap, alpha).over(to_levels(heatmap))[:, :, :3])


class Blending:
    """Blends heatmaps over one picture, each to within one level of the exact value."""

    def __init__(
        self,
        image: Image.Image,
        colormap: str = DEFAULT_COLORMAP,
        alpha: float = DEFAULT_ALPHA,
    ) -> None:
        """Prepare the picture and the colours.

        Args:
            image: RGB, width x height.
            colormap: One of COLORMAPS.
            alpha: Largest opacity of the colour, 0 to 1.

        Raises:
            InvalidOptionError: See :func:`overlay`.
        """
        if not 0 <= alpha <= 1:
            raise InvalidOptionError(f"alpha {alpha} is not in 0 to 1.", field="alpha")
        pixels = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
        self._pixels = pixels.reshape(image.height, image.width, _CHANNELS)
        opacity = np.rint(_ONE * alpha * opacity_ramp()).astype(np.uint16)[:, np.newaxis]
        colors = np.frombuffer(palette(colormap), np.uint8).reshape(256, 3)
        self._under = _by_level(_ONE - opacity)
        # The half rounds.
        self._over = _by_level(opacity * colors + _ONE // 2)

    def over(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Blend a heatmap in whole levels over the picture.

        Args:
            levels: [height, width].

        Returns:
            uint8 [height, width, 4], new: RGB, and a byte without meaning.
        """
        blended = np.empty(self._pixels.shape, np.uint8)
        height, width = levels.shape
        length = max(1, _BAND_PIXELS // width)
        for start in range(0, height, length):
            rows = slice(start, start + length)
            # Indices of another type would be converted one by one.
            indices = levels[rows].astype(np.intp)
            under = self._under.take(indices).view(np.uint16)
            over = self._over.take(indices).view(np.uint16)
            under *= self._pixels[rows].reshape(under.shape)
            under += over
            under >>= 8
            np.copyto(blended[rows].reshape(under.shape), under, casting="unsafe")
        return blended


def opacity_ramp() -> NDArray[np.float64]:
    """Compute the opacity of an overlay at each level of a heatmap.

    Returns:
        float64 [256]: share of the overlay's largest opacity, 0 to 1.
    """
    ramp = np.clip(np.arange(256) / 255 / _OPAQUE_FROM, 0, 1)
    opacity: NDArray[np.float64] = ramp * ramp * (3 - 2 * ramp)
    return opacity


@lru_cache(maxsize=len(COLORMAPS))
def palette(colormap: str) -> bytes:
    """Look up the colours of a colour map.

    Args:
        colormap: One of COLORMAPS.

    Returns:
        256 times red, green and blue, one byte each.

    Raises:
        InvalidOptionError: The colour map is unknown.
    """
    if colormap not in COLORMAPS:
        raise InvalidOptionError(
            f"colormap {colormap!r} is unknown: use one of {', '.join(COLORMAPS)}.",
            field="colormap",
        )
    colors = np.asarray(Colormap(colormap).lut(256))[:, :3]
    encoded: bytes = np.rint(colors * 255).astype(np.uint8).tobytes()
    return encoded


def is_constant(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether maps with these extremes are constant to within float32 rounding.

    Interpolation of a constant map leaves rounding noise, which must not be stretched.
    """
    return high - low < np.maximum(_TINY, 16 * _EPSILON * np.maximum(-low, high))


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace NaN by 0, and infinities by the largest and smallest values, in place."""
    if not np.isfinite(values).all():
        np.nan_to_num(values, copy=False)
    return values


def _extremes(
    values: NDArray[np.float32], axes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest values along the axes, which are kept."""
    least, largest = (
        extreme.reduce(values, axes, keepdims=True) for extreme in (np.minimum, np.maximum)
    )
    return least.astype(np.float64), largest.astype(np.float64)


def stretch(values: NDArray[np.float32], axes: tuple[int, ...]) -> None:
    """Stretch values to 0 to 1 by the extremes along the axes, in place; see :func:`normalize`."""
    if not values.size:
        return
    low, high = _extremes(values, axes)
    # An extreme is NaN or infinite if any value is.
    if not (np.isfinite(low) & np.isfinite(high)).all():
        low, high = _extremes(_finite(values), axes)
    constant, span = is_constant(low, high), high - low
    if span.max() > _LARGEST:
        # No float32 holds the span.
        scale = np.where(span > _LARGEST, np.float32(0.5), np.float32(1))
        values *= scale
        low, span = low * scale, high * scale - low * scale
    if constant.any():
        np.copyto(values, low.astype(np.float32), where=constant)
        span[constant] = 1
    values -= low.astype(np.float32)
    values /= span.astype(np.float32)


def _by_level(channels: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Pack the values of each level, [256, 1 or 3], into numbers of 64 bits, [256]."""
    packed = np.zeros((256, _CHANNELS), np.uint16)
    packed[:, :3] = channels
    return packed.view(np.uint64)[:, 0]
