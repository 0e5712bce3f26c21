"""The end of the server, as the parts that take part in it see it."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import structlog

# For threads that have nothing more to do, after everything was answered.
_THREAD_END_SECONDS = 1.0
# Beyond the drain timeout, for what was cut short to be refused and for workers to stop.
_END_SECONDS = 3.0

_log = structlog.get_logger("legrad.service")


class Shutdown:
    """When the server was told to stop, how long it may take, and what it leaves unanswered.

    Attributes:
        requests: requests that are being answered; changed on the event loop only.
        abandoned: requests that were given up before they were; likewise.
    """

    def __init__(self, delay_seconds: float, drain_seconds: float) -> None:
        """Waits to be announced.

        Args:
            delay_seconds: how long requests are still accepted after the announcement, so that
                balancers see that the server is not ready before it refuses anybody.
            drain_seconds: how long what was accepted is finished after that.
        """
        self._delay_seconds = delay_seconds
        self._drain_seconds = drain_seconds
        self._announced = threading.Event()
        self._announced_at: float | None = None
        self.requests = 0
        self.abandoned = 0

    @property
    def announced(self) -> bool:
        """Whether the server is about to stop; from then on it is not ready."""
        return self._announced_at is not None

    @property
    def delay_left(self) -> float:
        """Seconds for which requests are still accepted; the whole delay before it is announced."""
        return self._left(self._delay_seconds)

    @property
    def drain_left(self) -> float:
        """Seconds in which accepted requests can still be answered; likewise."""
        return self._left(self._delay_seconds + self._drain_seconds)

    @property
    def exit_status(self) -> int:
        """0 if everything accepted was answered."""
        return 1 if self.requests or self.abandoned else 0

    def announce(self) -> bool:
        """Begins the end; false if it had begun. Safe in a signal's handler."""
        if self._announced_at is not None:
            return False
        self._announced_at = time.monotonic()
        self._announced.set()
        return True

    @contextlib.contextmanager
    def ending_in_time(self) -> Iterator[None]:
        """Runs the server; the process ends in time after the announcement, whatever hangs.

        Where threads are left that cannot be stopped, it ends here and now, with the exit status.
        """
        guard = threading.Thread(target=self._end_in_time, name="end-in-time", daemon=True)
        guard.start()
        yield
        deadline = time.monotonic() + _THREAD_END_SECONDS
        for thread in _threads_beside(guard):
            thread.join(max(0.0, deadline - time.monotonic()))
        if left := _threads_beside(guard):
            # The interpreter would wait for them, or they crash while it ends.
            self._end_now(left)
        self._log_abandoned()

    def _end_in_time(self) -> None:
        """Ends the process when nothing else could, such as an event loop that is stuck."""
        self._announced.wait()
        time.sleep(self.drain_left + _END_SECONDS)
        self._end_now(_threads_beside())

    def _end_now(self, left: list[threading.Thread]) -> NoReturn:
        _log.warning("threads left behind", threads=[thread.name for thread in left])
        self._log_abandoned()
        logging.shutdown()
        os._exit(self.exit_status)

    def _log_abandoned(self) -> None:
        if self.exit_status:
            _log.error("requests abandoned", requests=self.requests + self.abandoned)

    def _left(self, seconds: float) -> float:
        if self._announced_at is None:
            return seconds
        return max(0.0, self._announced_at + seconds - time.monotonic())


def _threads_beside(*known: threading.Thread) -> list[threading.Thread]:
    """Threads that run beside the main one and this one."""
    own = (*known, threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if thread not in own]
