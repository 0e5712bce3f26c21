"""Changes of regions of a picture: blurred, or replaced by its mean colour."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
from PIL import Image, ImageFilter

from legrad_engine.errors import InvalidOptionError, check_choice
from legrad_engine.images.change_kinds import Change
from legrad_engine.images.cropping import PixelBox, scale_box
from legrad_engine.images.inputs import PreparedImage

# Wide enough that the objects of a picture are not recognised: 14 pixels of 224.
_BLUR_SHARE = 1 / 16


def change_regions(
    prepared: PreparedImage, boxes: Sequence[PixelBox], change: Change
) -> PreparedImage:
    """Return a picture whose regions are changed, as model input.

    Args:
        prepared: the picture; its pixels are uint8.
        boxes: boxes of the original that lie in it.
        change: ``blur``, a Gaussian blur of the whole picture whose standard deviation is a
            sixteenth of its shorter side in the input; or ``mean``, the mean colour of the picture.

    Raises:
        InvalidOptionError: unknown change, or the pixels were normalised by the caller.
    """
    check_choice("change", change, get_args(Change))
    pixels = prepared.pixels
    if pixels.dtype != np.uint8:
        raise InvalidOptionError(
            "Regions are changed in pictures, not in inputs that are normalised already.",
            field="images",
        )
    height, width = pixels.shape[:2]
    changed = pixels.copy()
    if change == "blur":
        blur = ImageFilter.GaussianBlur(_BLUR_SHARE * min(width, height))
        replacement = np.asarray(Image.fromarray(pixels).filter(blur))
    else:
        mean = pixels.mean((0, 1)).round().astype(np.uint8)
        replacement = np.broadcast_to(mean, pixels.shape)
    for box in boxes:
        left, top, right, bottom = scale_box(box, prepared.geometry.image_size, (width, height))
        changed[top:bottom, left:right] = replacement[top:bottom, left:right]
    return PreparedImage(changed, prepared.geometry)
