"""The end of the process: in time after the stop is announced, even if a thread hangs."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import structlog

from service.http.drain import Drain
from service.telemetry.log_queue import LOG_THREAD
from service.telemetry.logs import write_last_lines

# For threads that have nothing more to do, after every request was answered.
_THREAD_END_SECONDS = 1.0
# Beyond the drain timeout, for refusing the requests that were cut short and stopping the workers.
_END_SECONDS = 3.0

_log = structlog.get_logger("legrad.service")


@contextlib.contextmanager
def ending_in_time(drain: Drain) -> Iterator[None]:
    """Run the server; end the process in time after the announcement, even if a thread hangs.

    If threads are left that cannot be stopped, end the process at once, with the exit status.
    """
    guard = threading.Thread(target=_end_in_time, args=(drain,), name="end-in-time", daemon=True)
    guard.start()
    yield
    deadline = time.monotonic() + _THREAD_END_SECONDS
    for thread in _other_threads(guard):
        thread.join(max(0.0, deadline - time.monotonic()))
    if left := _other_threads(guard):
        # The interpreter would wait for them, or they would crash while it ends.
        _end_now(drain, left)
    _log_unanswered(drain)


def _end_in_time(drain: Drain) -> None:
    """End the process if nothing else could, for example because the event loop is stuck."""
    drain.wait_until_announced()
    time.sleep(drain.seconds_left + _END_SECONDS)
    _end_now(drain, _other_threads())


def _end_now(drain: Drain, left: list[threading.Thread]) -> NoReturn:
    _log.warning("threads left behind", threads=[thread.name for thread in left])
    _log_unanswered(drain)
    write_last_lines()
    os._exit(drain.exit_status)


def _log_unanswered(drain: Drain) -> None:
    if drain.unanswered:
        _log.error("requests abandoned", requests=drain.unanswered)


def _other_threads(*known: threading.Thread) -> list[threading.Thread]:
    """Return the threads other than the main one, the calling one, the log's and the known ones."""
    own = (*known, threading.main_thread(), threading.current_thread())
    return [
        thread
        for thread in threading.enumerate()
        if thread not in own and thread.name != LOG_THREAD
    ]
