"""How fast a micro-batcher drains, and how slowly it restarts a worker that keeps dying."""

from dataclasses import dataclass

DEFAULT_RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True)
class RestartBackoff:
    """How long a dead worker's replacement waits: doubling from the initial to the maximum."""

    initial_seconds: float = 0.1
    maximum_seconds: float = 30.0

    def delay_seconds(self, consecutive_failures: int) -> float:
        """The wait after so many failures (1 or more) with no batch computed in between."""
        doublings = min(consecutive_failures - 1, 62)
        return min(self.initial_seconds * float(2**doublings), self.maximum_seconds)


class DrainRate:
    """Cost computed per second of computing, recent batches weighing most."""

    _WEIGHT_OF_NEWEST = 0.2

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0

    def record(self, cost: float, seconds: float) -> None:
        """Take one computed batch into account."""
        # Averaging cost and time apart lets a long batch count for more than a short one; the
        # mean of per-batch rates would be swayed by tiny batches, which are mostly overhead.
        kept = 1.0 - self._WEIGHT_OF_NEWEST if self._seconds else 0.0
        self._cost = kept * self._cost + (1.0 - kept) * cost
        self._seconds = kept * self._seconds + (1.0 - kept) * seconds

    def seconds_for(self, cost: float) -> float | None:
        """How long so much cost takes to compute; ``None`` before anything was measured."""
        if not self._seconds:
            return None
        return cost * self._seconds / self._cost
