"""The HTTP contract: boxes in requests and answers."""

from typing import Annotated

from pydantic import Field

from legrad_engine.images.cropping import PixelBox
from service.schemas.base import WHOLE, Request
from service.schemas.measurements.base import Result

# Far beyond the side of any picture that is decoded.
_MOST_PIXELS = 1_000_000
_Edge = Annotated[int, Field(ge=0, le=_MOST_PIXELS), WHOLE]


class Box(Result):
    """A box in the original picture; right and bottom are exclusive."""

    left: int = Field(description="Left edge in pixels.", examples=[120])
    top: int = Field(description="Top edge in pixels.", examples=[80])
    right: int = Field(description="Right edge in pixels.", examples=[410])
    bottom: int = Field(description="Bottom edge in pixels.", examples=[300])


class RequestedBox(Request):
    """A box in pixels of the original picture, turned upright, as answers have them."""

    left: _Edge = Field(description="Left edge.", examples=[120])
    top: _Edge = Field(description="Top edge.", examples=[80])
    right: _Edge = Field(description="Right edge, exclusive.", examples=[410])
    bottom: _Edge = Field(description="Bottom edge, exclusive.", examples=[300])

    @property
    def edges(self) -> PixelBox:
        """(left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom
