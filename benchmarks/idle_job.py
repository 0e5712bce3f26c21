"""A job that only takes time: picture work as if each worker had a core of its own.

Picture processes import this module, so it imports nothing heavy.
"""

import time
from dataclasses import dataclass

from service.pictures.drawing import DrawnImage
from service.pictures.jobs import Canvases


@dataclass(frozen=True)
class Idle:
    """Sleep for some seconds."""

    seconds: float

    def run(self, _canvases: Canvases, _number: int) -> DrawnImage:
        """Take the place of :meth:`service.pictures.jobs.Decode.run`."""
        time.sleep(self.seconds)
        return DrawnImage((), self.seconds)
