"""Scaling of grey pictures with more than 8 bits, or with float values, to 8-bit grey."""

import contextlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PpmImagePlugin, TiffImagePlugin

_GDAL_NODATA = 42113
_WHITE_IS_ZERO = 0

# Full scales that float and 32-bit files use, although nothing in the file says so.
_USUAL_FULL_SCALES = (1, 255, 65535)
# Values that stay in the lowest quarter of 255 or 65535 are measurements, not shades.
_SHARE_OF_FULL_SCALE = 1 / 4
# A fill value in a range that a full scale covers, such as 255 beside probabilities, must be this
# many times as far away as one beyond it: a bright spot in a dark picture is content.
_DISTANCE_WITHIN_FULL_SCALE = 64
_OUTLIERS = 1 / 1000
# Each pass sets aside one side and reads all pixels several times.
_MOST_PASSES = 8


@dataclass(frozen=True)
class DeepFormat:
    """The meaning of the values of a deep picture, as far as its file tells.

    Attributes:
        white: the value of white, with 0 for black; None if the file does not tell.
        inverted: whether 0 is white instead.
        missing: the value of pixels without a value (GDAL_NODATA), or None.
        transparent: the value of transparent pixels, or None.
    """

    white: float | None = None
    inverted: bool = False
    missing: float | None = None
    transparent: float | None = None

    @classmethod
    def of(cls, image: Image.Image) -> "DeepFormat":
        """Read the format of an image of mode I, I;16 (any byte order) or F."""
        white = 65535 if image.mode.startswith("I;16") else None
        transparent = image.info.get("transparency")
        if not isinstance(transparent, int):
            transparent = None
        if isinstance(image, PpmImagePlugin.PpmImageFile) and image.mode == "I":
            # Pillow scales to 16 bits by the file's own largest value.
            white = 65535
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return cls(white, transparent=transparent)
        tags = image.tag_v2
        if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
            white = 4095
        missing = None
        with contextlib.suppress(ValueError):
            missing = float(str(tags.get(_GDAL_NODATA)))
        # Pillow reads 8-bit files without this tag as white-is-zero too.
        photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, _WHITE_IS_ZERO)
        return cls(white, photometric == _WHITE_IS_ZERO, missing, transparent)


def to_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Scale a deep picture to 8-bit grey.

    White is the value that the file tells. Without one it is the smallest usual full scale that
    the values fill, or else the range of the values is stretched. Values far outside of all others
    do not count for that: they become black or white. Missing values, NaN and infinities become
    black, and transparent pixels white.

    Args:
        image: a picture of mode I, I;16 (any byte order) or F.

    Returns:
        uint8 [height, width].
    """
    form = DeepFormat.of(image)
    values = np.asarray(image)
    shades = np.array(values, np.float32)
    missing = ~np.isfinite(shades)
    if form.missing is not None:
        missing |= values == form.missing
    transparent = None if form.transparent is None else values == form.transparent
    # Each of these arrays is as large as the picture.
    del values
    shades[missing] = 0
    black, white = (0.0, form.white) if form.white else _find_range(shades, ~missing)
    if white - black > float(np.finfo(np.float32).max):
        shades /= 2
        black, white = black / 2, white / 2
    np.clip(shades, black, white, out=shades)
    shades -= black
    shades *= 255 / max(white - black, 1e-30)
    levels = np.rint(shades, out=shades).astype(np.uint8)
    if form.inverted:
        np.subtract(255, levels, out=levels)
    levels[missing] = 0
    if transparent is not None:
        levels[transparent] = 255
    return levels


def _find_range(shades: NDArray[np.float32], shown: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the values of black and white."""
    if not shown.any():
        return 0, 1
    low, high = _extremes(shades, shown)
    for _ in range(_MOST_PASSES):
        full_scale = _full_scale(low, high)
        distance = 1 if full_scale is None else _DISTANCE_WITHIN_FULL_SCALE
        narrowed = _set_aside(shades, shown, low, high, distance)
        if narrowed is None:
            break
        low, high = narrowed
    full_scale = _full_scale(low, high)
    return (low, high) if full_scale is None else (0, full_scale)


def _full_scale(low: float, high: float) -> int | None:
    for full_scale in _USUAL_FULL_SCALES:
        if low >= 0 and high <= full_scale:
            filled = full_scale == 1 or high >= full_scale * _SHARE_OF_FULL_SCALE
            return full_scale if filled else None
    return None


def _set_aside(
    shades: NDArray[np.float32], shown: NDArray[np.bool_], low: float, high: float, distance: float
) -> tuple[float, float] | None:
    """Return the range without the values that lie far outside, or None if there are none.

    Values lie far outside if a gap parts them from all others that is wider than the range of the
    others, times the distance. They must be a single value, as fill values are, or very few
    pixels. A gap wider than half of the whole range contains the middle of it.
    """
    middle = low + (high - low) / 2
    within = shown & (shades >= low) & (shades <= high)
    upper = within & (shades > middle)
    lower = within & ~upper
    if not upper.any():
        return None
    highest_below = _extremes(shades, lower)[1]
    lowest_above = _extremes(shades, upper)[0]
    gap = lowest_above - highest_below
    sides = ((lower, low, highest_below), (upper, lowest_above, high))
    for (outside, start, stop), (rest, rest_low, rest_high) in (sides, sides[::-1]):
        odd = start == stop or outside.sum() <= _OUTLIERS * within.sum()
        if odd and gap > distance * (rest_high - rest_low):
            # Two or three shades, as of a mask, are not a picture with an outlier.
            inner = rest & (shades > rest_low) & (shades < rest_high)
            if inner.any():
                return rest_low, rest_high
    return None


def _extremes(shades: NDArray[np.float32], where: NDArray[np.bool_]) -> tuple[float, float]:
    lowest = shades.min(where=where, initial=np.inf)
    highest = shades.max(where=where, initial=-np.inf)
    return float(lowest), float(highest)
