"""The canvases that picture processes keep, as the server knows them."""

import asyncio
import contextlib
from collections.abc import Callable

from service.pictures.processes import PictureProcess

# Pillow stores a pixel of an RGB picture in four bytes.
_BYTES_PER_PIXEL = 4
# Canvases that are not needed are dropped with the next order, or after this time.
_DROP_SECONDS = 0.1


class KeptCanvas:
    """A canvas that a picture process keeps as long as this object lives.

    Attributes:
        number: its number, unique among all canvases.
        size: (width, height) in pixels.
    """

    __slots__ = ("__weakref__", "_drop", "number", "size")

    def __init__(self, number: int, size: tuple[int, int], drop: Callable[[int], None]) -> None:
        self.number = number
        self.size = size
        self._drop = drop

    def __del__(self) -> None:
        """Tell the process; any thread may drop the last reference."""
        self._drop(self.number)

    @property
    def nbytes(self) -> int:
        """The size in the memory of the process, in bytes."""
        width, height = self.size
        return width * height * _BYTES_PER_PIXEL


class Canvases:
    """The processes of all kept canvases. Used on the event loop only."""

    def __init__(self, wake: Callable[[PictureProcess], bool]) -> None:
        """Create an empty table.

        Args:
            wake: lets an idle process drop canvases; returns False if it is busy.
        """
        self._wake = wake
        self._homes: dict[int, PictureProcess] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the event loop on which canvases are dropped."""
        self._loop = loop

    def home(self, number: int) -> PictureProcess | None:
        """Return the process of a canvas; None if it has ended."""
        return self._homes.get(number)

    def keep(self, number: int, size: tuple[int, int], process: PictureProcess) -> KeptCanvas:
        """Note that a process keeps a canvas, until the returned object is dropped."""
        process.canvases.add(number)
        self._homes[number] = process
        return KeptCanvas(number, size, self._drop)

    def forget(self, process: PictureProcess) -> None:
        """Forget the canvases of a process that has ended."""
        for number in process.canvases:
            del self._homes[number]
        process.canvases.clear()

    def _drop(self, number: int) -> None:
        # The event loop may have ended, with all processes.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._dropped, number)

    def _dropped(self, number: int) -> None:
        process = self._homes.pop(number, None)
        if process is None:
            return
        process.canvases.discard(number)
        if not process.dropped:
            self._tell_later(process)
        process.dropped.append(number)

    def _tell_later(self, process: PictureProcess) -> None:
        asyncio.get_running_loop().call_later(_DROP_SECONDS, self._tell, process)

    def _tell(self, process: PictureProcess) -> None:
        # A busy process is told with its next order, or later.
        if process.dropped and process.ended_for is None and not self._wake(process):
            self._tell_later(process)
