"""Reservations of the picture processes' time, by their measured rates."""

import contextlib
import time
from collections.abc import Callable, Iterator

from service.batching.pacing import DrainRate
from service.errors import TooManyRequestsError
from service.pictures.turns import BY_URGENCY, Work

# Factor on estimates, because pictures differ and the machine has other work.
_MARGIN = 1.5


class PictureCapacity:
    """The time of the picture processes. Used on the event loop only."""

    def __init__(self, processes: int, waiting: Callable[[], int]) -> None:
        """Create it.

        Args:
            processes: number of processes.
            waiting: counts the pictures that wait to be decoded.
        """
        self._processes = processes
        self._waiting = waiting
        self._reserved = 0
        self._rates: dict[Work, DrainRate] = {work: DrainRate() for work in BY_URGENCY}

    def record(self, work: Work, seconds: float) -> None:
        """Note the time that one picture took."""
        self._rates[work].record(1.0, seconds)

    def check(self, deadline: float, pictures: int = 1) -> None:
        """Refuse a request whose pictures would not be done by its deadline. Reserve nothing.

        Args:
            deadline: deadline of the request, on the monotonic clock in seconds.
            pictures: number of its pictures.

        Raises:
            TooManyRequestsError: by the measured rates, the reserved pictures and these would take
                longer.
        """
        if not self._reserved:
            # Idle workers accept everything: an outdated rate must not refuse every request.
            return
        decoding = self._estimate("decode", self._waiting() + pictures)
        drawing = self._estimate("draw", self._reserved + pictures)
        late = time.monotonic() + decoding + drawing - deadline
        if late > 0:
            raise TooManyRequestsError(
                "Pictures of others leave no time for more by the deadline; try again in a moment.",
                retry_after_seconds=late,
            )

    @contextlib.contextmanager
    def reserve(self, deadline: float, pictures: int) -> Iterator[None]:
        """Reserve time for pictures, from the start of their request until they are drawn.

        Args:
            deadline: deadline of the request, on the monotonic clock in seconds.
            pictures: number of its pictures.

        Raises:
            TooManyRequestsError: see :meth:`check`.
        """
        self.check(deadline, pictures)
        self._reserved += pictures
        try:
            yield
        finally:
            self._reserved -= pictures

    def drawing_seconds(self, pictures: int) -> float:
        """Estimate the seconds of drawing pictures by the measured rate; 0 before the first."""
        return self._estimate("draw", pictures)

    def _estimate(self, work: Work, pictures: int) -> float:
        seconds = self._rates[work].seconds_for(pictures) or 0.0
        return _MARGIN * seconds / self._processes
