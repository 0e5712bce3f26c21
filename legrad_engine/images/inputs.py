"""Fitting of decoded pictures to a model's input. Needs no model, so any process can do it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.images.fits import Fit
from legrad_engine.images.geometry import Geometry, plan
from legrad_engine.models.preprocessing import Interpolation

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Picture that is ready to be a model input.

    Attributes:
        pixels: uint8 ``[height, width, 3]`` in RGB, resized to the content box of the geometry; or
            float ``[3, height, width]`` of the whole input, already normalised by the caller.
        geometry: mapping from the patch grid back to the picture.
    """

    pixels: NDArray[np.uint8] | NDArray[np.floating]
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class InputRules:
    """How a model's input is made of a picture: a small value that other processes can use.

    Attributes:
        size: side of the square input in pixels, or its (width, height).
        patch_size: (height, width) of one patch in input pixels.
        fit: how a picture is fitted to the input, see :func:`~legrad_engine.images.geometry.plan`.
        interpolation: filter for resizing.
    """

    size: int | tuple[int, int]
    patch_size: tuple[int, int]
    fit: Fit
    interpolation: Interpolation

    def plan(self, image_size: tuple[int, int]) -> Geometry:
        """Plan how a picture of (width, height) pixels is fitted.

        Raises:
            InvalidOptionError: the size is not a whole number of patches, or the fit is unknown.
        """
        return plan(image_size, size=self.size, patch_size=self.patch_size, fit=self.fit)

    def prepare(self, picture: Image.Image) -> PreparedImage:
        """Resize a picture to its box in the model's input.

        Args:
            picture: RGB, as :func:`legrad_engine.images.decoding.decode` returns it.

        Raises:
            InvalidOptionError: see :meth:`plan`.
        """
        geometry = self.plan(picture.size)
        left, top, right, bottom = geometry.content_box
        resized = picture.resize((right - left, bottom - top), _FILTERS[self.interpolation])
        return PreparedImage(np.asarray(resized), geometry)
