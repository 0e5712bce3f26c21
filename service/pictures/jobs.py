"""The jobs of picture processes and their answers: small values that are pickled.

They have no slots: pickling would then read and set each field by Python code.
"""

from dataclasses import dataclass
from pickle import PickleBuffer  # nosec B403 # a view of bytes; nothing is unpickled here

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.images.cropping import PixelBox
from legrad_engine.images.geometry import Geometry
from legrad_engine.images.inputs import InputRules, PreparedImage
from service.pictures.decoding import decode_picture
from service.pictures.drawing import DrawingRules, DrawnImage, draw
from service.settings.values import PictureRules

Canvases = dict[int, Image.Image]
"""The canvases that a process keeps, by their numbers."""


@dataclass(frozen=True)
class Decoded:
    """The parts of a decoded picture that the server needs.

    Attributes:
        geometry: how the patch grid maps to the picture.
        prepared: the picture as model input, or None if its geometry was known before.
        canvas_size: (width, height) of the canvas that the process keeps; None without one.
        seconds: time of decoding.
    """

    geometry: Geometry
    prepared: PreparedImage | None
    canvas_size: tuple[int, int] | None
    seconds: float


@dataclass(frozen=True)
class Decode:
    """Decode a picture; see :func:`~service.pictures.decoding.decode_picture`.

    Attributes:
        encoded: the picture's bytes; a buffer, so that they are not copied into the pickle.
        rules: how pictures are decoded.
        input_rules: how the upright picture is fitted to the model.
        geometry: the picture's geometry, if it was fitted before.
        max_side: longest side of the overlay in pixels, or None for no overlay.
        box: the region that is the model's input, in pixels of the upright original; None for the
            whole picture.
    """

    encoded: PickleBuffer
    rules: PictureRules
    input_rules: InputRules
    geometry: Geometry | None
    max_side: int | None
    box: PixelBox | None = None

    def run(self, canvases: Canvases, number: int) -> Decoded:
        """Decode the picture; keep its canvas, if it has one, under the number."""
        decoded = decode_picture(
            bytes(self.encoded),
            self.rules,
            self.input_rules,
            self.geometry,
            self.max_side,
            self.box,
        )
        if decoded.canvas is not None:
            canvases[number] = decoded.canvas
        size = None if decoded.canvas is None else decoded.canvas.size
        return Decoded(decoded.geometry, decoded.prepared, size, decoded.seconds)


@dataclass(frozen=True)
class Draw:
    """Draw the maps of a picture; see :func:`~service.pictures.drawing.draw`.

    Attributes:
        maps: ``[targets, rows, columns]``, the raw maps.
        geometry: how the patch grid maps to the picture.
        canvas: number of the canvas that this process keeps; or the job that decodes it again; or
            None for no overlay.
        rules: the wanted pictures and numbers.
    """

    maps: NDArray[np.floating]
    geometry: Geometry
    canvas: int | Decode | None
    rules: DrawingRules

    def run(self, canvases: Canvases, number: int) -> DrawnImage:
        """Draw the maps; a canvas that is decoded for them is not kept."""
        if not isinstance(self.canvas, Decode):
            canvas = None if self.canvas is None else canvases[self.canvas]
            return draw(self.maps, self.geometry, canvas, self.rules)
        self.canvas.run(canvases, number)
        return draw(self.maps, self.geometry, canvases.pop(number), self.rules)


Job = Decode | Draw


@dataclass(frozen=True)
class Order:
    """A message to a picture process.

    Attributes:
        job: the job, which is answered; None for an order that only drops canvases.
        number: number under which a new canvas is kept.
        max_bytes: most memory of the job and of the kept canvases together, in bytes.
        dropped: numbers of the canvases that are not needed any more.
    """

    job: Job | None
    number: int
    max_bytes: int
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class Ready:
    """The first message of a picture process: it takes jobs."""

    pid: int


@dataclass(frozen=True)
class Done:
    """The answer to a job that was carried out."""

    value: Decoded | DrawnImage


@dataclass(frozen=True)
class Refused:
    """The answer to a job whose picture is at fault."""

    error: Exception


@dataclass(frozen=True)
class OutOfMemory:
    """The answer to a job that needed more memory than it may have."""


@dataclass(frozen=True)
class Failed:
    """The answer to a job that failed because of a bug.

    Attributes:
        trace: the traceback, as text.
    """

    trace: str
