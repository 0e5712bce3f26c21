"""Reservations of the picture processes' time, by their measured rates."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator

from service.batching.pacing import DrainRate
from service.batching.shares import fair_total
from service.errors import TooManyRequestsError
from service.pictures.turns import BY_URGENCY, Work

# Factor on estimates, because pictures differ and the machine has other work.
_MARGIN = 1.5


class PictureCapacity:
    """Estimate of the time that picture processes have left. Used on the event loop only."""

    def __init__(self, processes: int, decoded_until: Callable[[Hashable, int], float]) -> None:
        """Create the estimate.

        Args:
            processes: number of processes.
            decoded_until: returns the number of pictures, those of other owners included, that are
                decoded until a number of new pictures of an owner are.
        """
        self._processes = processes
        self._decoded_until = decoded_until
        self._reserved: Counter[Hashable] = Counter()
        self._rates: dict[Work, DrainRate] = {work: DrainRate() for work in BY_URGENCY}

    def record(self, work: Work, seconds: float) -> None:
        """Note the time that one picture took."""
        self._rates[work].record(1.0, seconds)

    def check(self, owner: Hashable, deadline: float, pictures: int = 1, targets: int = 0) -> None:
        """Refuse a request whose pictures would not be done by its deadline. Reserve nothing.

        Args:
            owner: owner of the request; owners take turns.
            deadline: deadline of the request, on the monotonic clock in seconds.
            pictures: number of its pictures.
            targets: number of its target pictures, which are decoded and not drawn.

        Raises:
            TooManyRequestsError: by the measured rates, these pictures and those that have their
                turns before them would take longer.
        """
        if not self._reserved:
            # Idle workers accept everything: an outdated rate must not refuse every request.
            return
        decoding = self._estimate("decode", self._decoded_until(owner, pictures + targets))
        drawing = self._estimate("draw", fair_total(self._reserved, owner, pictures))
        late = time.monotonic() + decoding + drawing - deadline
        if late > 0:
            raise TooManyRequestsError(
                "Pictures of others leave no time for more by the deadline; try again in a moment.",
                retry_after_seconds=late,
            )

    @contextlib.contextmanager
    def reserve(
        self, owner: Hashable, deadline: float, pictures: int, targets: int = 0
    ) -> Iterator[None]:
        """Reserve time for pictures, from the start of their request until they are drawn.

        Args:
            owner: owner of the request.
            deadline: deadline of the request, on the monotonic clock in seconds.
            pictures: number of its pictures.
            targets: number of its target pictures.

        Raises:
            TooManyRequestsError: see :meth:`check`.
        """
        self.check(owner, deadline, pictures, targets)
        self._reserved[owner] += pictures
        try:
            yield
        finally:
            self._reserved[owner] -= pictures
            if not self._reserved[owner]:
                del self._reserved[owner]

    def drawing_seconds(self, pictures: int) -> float:
        """Estimate the seconds of drawing pictures by the measured rate; 0 before the first."""
        return self._estimate("draw", pictures)

    def _estimate(self, work: Work, pictures: float) -> float:
        seconds = self._rates[work].seconds_for(pictures) or 0.0
        return _MARGIN * seconds / self._processes
