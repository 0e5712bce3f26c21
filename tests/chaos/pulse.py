"""How busy the machine is: limits of time hold for a machine that computes at its own speed."""

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np

_EVERY_SECONDS = 0.5
_STEPS = 300_000
# What is measured a little earlier and later counts, too.
_AROUND_SECONDS = 3.0
_PERCENT = 90


class Pulse:
    """Measures, again and again, how much longer than its processor time a computation takes.

    A measurement that comes late counts, too: all of the machine stalled meanwhile.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._samples: list[tuple[float, float]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure while the context lasts."""
        thread = threading.Thread(target=self._measure)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def slowdown(self, began: float, ended: float) -> float:
        """Return the factor, at least 1, by which the machine was slower than when idle.

        Args:
            began: beginning of a period, on the monotonic clock.
            ended: its end.
        """
        within = [
            factor
            for at, factor in self._samples
            if began - _AROUND_SECONDS <= at <= ended + _AROUND_SECONDS
        ]
        return max(1.0, float(np.percentile(within, _PERCENT))) if within else 1.0

    def note(self, last: float, began: float, ended: float, used: float) -> None:
        """Note a measurement.

        Args:
            last: end of the last one, on the monotonic clock.
            began: beginning of the computation.
            ended: its end.
            used: its processor time, in seconds.
        """
        late = (ended - last) / (_EVERY_SECONDS + used)
        self._samples.append((ended, max(late, (ended - began) / used)))
        # A stall counts as often as there would have been measurements without it.
        missed = int((ended - last) / _EVERY_SECONDS) - 1
        self._samples += [(last + each * _EVERY_SECONDS, late) for each in range(1, missed + 1)]

    def _measure(self) -> None:
        last, stopped = time.monotonic(), False
        while not stopped:
            stopped = self._stopped.wait(_EVERY_SECONDS)
            began, used = time.monotonic(), time.thread_time()
            sum(range(_STEPS))
            ended, used = time.monotonic(), time.thread_time() - used
            self.note(last, began, ended, used)
            last = ended
