"""The state of a shutdown: time left, requests in progress, exit status."""

import threading
import time


class Drain:
    """The announcement of a shutdown, the time left, and the requests in progress.

    Attributes:
        requests: number of requests in progress; changed on the event loop only.
        abandoned: number of requests cancelled unanswered; changed on the event loop only.
    """

    def __init__(self, delay_seconds: float, drain_seconds: float) -> None:
        """Create the state of a server that runs.

        Args:
            delay_seconds: time after the announcement in which requests are still accepted, so
                that load balancers see that the server is not ready before it refuses a request.
            drain_seconds: time after that delay in which accepted requests are finished.
        """
        self._delay_seconds = delay_seconds
        self._drain_seconds = drain_seconds
        self._announced = threading.Event()
        self._announced_at: float | None = None
        self.requests = 0
        self.abandoned = 0

    @property
    def announced(self) -> bool:
        """Whether the shutdown was announced; from then on the server is not ready."""
        return self._announced_at is not None

    @property
    def delay_left(self) -> float:
        """Seconds in which requests are still accepted; the whole delay before the announcement."""
        return self._left(self._delay_seconds)

    @property
    def seconds_left(self) -> float:
        """Seconds in which accepted requests can still be answered, the delay included."""
        return self._left(self._delay_seconds + self._drain_seconds)

    @property
    def exit_status(self) -> int:
        """0 if every accepted request was answered, otherwise 1."""
        return 1 if self.unanswered else 0

    @property
    def unanswered(self) -> int:
        """The number of accepted requests that were not answered."""
        return self.requests + self.abandoned

    def announce(self) -> bool:
        """Announce the shutdown. Safe in a signal handler.

        Returns:
            False if it was announced before.
        """
        if self._announced_at is not None:
            return False
        self._announced_at = time.monotonic()
        self._announced.set()
        return True

    def wait_until_announced(self) -> None:
        """Block the calling thread until the shutdown is announced."""
        self._announced.wait()

    def readiness_problem(self) -> str | None:
        """Return the reason why the server is not ready; None before the announcement."""
        if self.announced:
            return "The server is shutting down: send requests to another one."
        return None

    def _left(self, seconds: float) -> float:
        if self._announced_at is None:
            return seconds
        return max(0.0, self._announced_at + seconds - time.monotonic())
