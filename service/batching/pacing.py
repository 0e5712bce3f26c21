"""Measured drain rate of a micro-batcher, and delays between restarts of its worker."""

from dataclasses import dataclass

DEFAULT_RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True)
class RestartBackoff:
    """Delays before a dead worker is replaced, doubling from the initial to the maximum."""

    initial_seconds: float = 0.1
    maximum_seconds: float = 30.0

    def delay_seconds(self, consecutive_failures: int) -> float:
        """Return the delay after this many failures in a row (1 or more)."""
        doublings = min(consecutive_failures - 1, 62)
        return min(self.initial_seconds * float(2**doublings), self.maximum_seconds)


class DrainRate:
    """Computed cost per second of compute time, weighted towards recent batches."""

    _WEIGHT_OF_NEWEST = 0.2

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0

    def record(self, cost: float, seconds: float) -> None:
        """Add one computed batch."""
        # Cost and time are averaged separately, so that a long batch weighs more than a short one.
        # A mean of the batches' rates would be dominated by tiny batches, which are mostly
        # overhead.
        kept = 1.0 - self._WEIGHT_OF_NEWEST if self._seconds else 0.0
        self._cost = kept * self._cost + (1.0 - kept) * cost
        self._seconds = kept * self._seconds + (1.0 - kept) * seconds

    def seconds_for(self, cost: float) -> float | None:
        """Return the estimated time to compute a cost; ``None`` before the first measurement."""
        if not self._seconds:
            return None
        return cost * self._seconds / self._cost
