"""The time of the whole run, divided among its parts."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeUp(BaseException):
    """The time of a part is over in the middle of a measurement.

    As KeyboardInterrupt it is no Exception, so that no fallback takes it for a failure.
    """


class Budget:
    """An amount of seconds that starts to run when it is made."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def part(self, share: float) -> "Budget":
        """Return a budget of a share of the seconds that are left."""
        return Budget(self.left * share)

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise TimeUp in the block, in the main thread, once nothing is left."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("only the main thread can be interrupted")
        handler = signal.signal(signal.SIGALRM, _time_up)
        # A timer of 0 seconds would never ring.
        timer = signal.setitimer(signal.ITIMER_REAL, max(0.001, self.left))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, *timer)


def _time_up(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise TimeUp
