"""Fitting of decoded pictures to a model's input. Needs no model, so any process can do it.

Its values have no slots: pickling would then read and set each field by Python code.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.images.fits import Fit
from legrad_engine.images.geometry import Box, Geometry, plan
from legrad_engine.images.resizing import Resize, resize_exactly
from legrad_engine.models.preprocessing import Interpolation

# A reduced picture has at least three pixels for each one of the input along a side. With two, maps
# correlate with those of the whole picture at 0.999 in place of 0.9997, see benchmarks/fidelity.py.
_LEAST_SCALE = 3
# Of a side whose length is no multiple, the last pixel lies partly outside the picture, yet counts
# as a whole one. With so many of them along a thin strip, that does not show in its maps.
_LEAST_SIDE = 32


@dataclass(frozen=True)
class PreparedImage:
    """Picture that is ready to be a model input.

    Attributes:
        pixels: uint8 ``[height, width, 3]`` in RGB, resized to the content box of the geometry; or
            float ``[3, height, width]`` of the whole input, already normalised by the caller.
        geometry: mapping from the patch grid back to the picture.
    """

    pixels: NDArray[np.uint8] | NDArray[np.floating]
    geometry: Geometry


@dataclass(frozen=True)
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

    def match(self, geometry: Geometry) -> bool:
        """Return whether these rules would fit the picture of a geometry in the same way."""
        return geometry == self.plan(geometry.image_size)

    def least_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) that a picture of this size may be reduced to beforehand.

        Maps of the reduced picture are nearly those of the whole one.

        Raises:
            InvalidOptionError: see :meth:`plan`.
        """
        if self.interpolation == "nearest":
            # It takes single pixels, which no reduced picture has.
            return image_size
        left, top, right, bottom = self.plan(image_size).content_box
        width, height = (
            max(_LEAST_SCALE * fitted, min(_LEAST_SIDE, side))
            for fitted, side in zip((right - left, bottom - top), image_size, strict=True)
        )
        return width, height

    def prepare(
        self,
        picture: Image.Image,
        image_size: tuple[int, int] | None = None,
        resize: Resize = resize_exactly,
        shown: Box | None = None,
    ) -> PreparedImage:
        """Resize a picture to its box in the model's input.

        Args:
            picture: RGB, as :func:`legrad_engine.images.decoding.decode` returns it; or reduced.
            image_size: (width, height) of the original of a reduced picture.
            resize: resizes it, exactly or fast.
            shown: the box of a reduced picture, in its pixels, that the original fills; None for
                the whole.

        Raises:
            InvalidOptionError: see :meth:`plan`.
        """
        geometry = self.plan(image_size or picture.size)
        left, top, right, bottom = geometry.content_box
        resized = resize(picture, (right - left, bottom - top), self.interpolation, shown)
        return PreparedImage(np.asarray(resized), geometry)
