"""Pictures given as NumPy arrays."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.errors import ImageDecodeError

_CHANNELS = (1, 3, 4)


def picture_of(array: NDArray[np.generic]) -> Image.Image:
    """Make a picture of an array.

    Args:
        array: uint8 ``[height, width]`` in grey, or ``[height, width, channels]`` with 1 (grey),
            3 (RGB) or 4 channels (RGB and alpha).

    Raises:
        ImageDecodeError: another dtype or shape, whose meaning would be a guess.
    """
    if array.dtype != np.uint8:
        raise _refusal(
            f"The array holds {array.dtype}: scale it to 0 to 255 and convert it, "
            "array.astype(np.uint8)."
        )
    if 0 in array.shape:
        raise _refusal("The array has no pixels: give one that does.")
    if array.ndim == 2:
        return Image.fromarray(array)
    if array.ndim == 3 and array.shape[2] in _CHANNELS:
        return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if array.ndim == 3 and array.shape[0] in _CHANNELS:
        raise _refusal("The array has its channels first: give array.transpose(1, 2, 0).")
    if array.ndim == 4:
        raise _refusal("The array holds several pictures: give list(array).")
    raise _refusal(
        f"The array has the shape {list(array.shape)}; a picture has [height, width] or "
        "[height, width, channels] with 1, 3 or 4 channels."
    )


def _refusal(message: str) -> ImageDecodeError:
    return ImageDecodeError(message, field="image")
