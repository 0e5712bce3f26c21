"""Detects calls that hang."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

# A check is cheap. A bounded pause keeps the watch reliable when the clock jumps or a wait fails.
_LONGEST_PAUSE_SECONDS = 10.0
_SHORTEST_PAUSE_SECONDS = 0.001


class Watchdog:
    """Watches one call at a time, from a thread of its own that starts when it is needed.

    The thread is a daemon: it only waits in the interpreter, and must not keep a process alive.
    """

    def __init__(
        self,
        name: str,
        limit_seconds: float,
        on_stall: Callable[[threading.Thread], None],
        clock: Callable[[], float],
    ) -> None:
        """Create the watchdog without starting its thread.

        Args:
            name: name of the thread.
            limit_seconds: longest time that a call may take.
            on_stall: called once per stalled call, on the watchdog's thread, with the thread that
                hangs.
            clock: returns seconds.
        """
        self._name = name
        self._limit_seconds = limit_seconds
        self._on_stall = on_stall
        self._clock = clock
        self._lock = threading.Lock()
        self._call: tuple[threading.Thread, float] | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the block, which runs on the calling thread."""
        self._ensure_alive()
        me = threading.current_thread()
        with self._lock:
            self._call = (me, self._clock())
        try:
            yield
        finally:
            with self._lock:
                # An abandoned thread must not end the watch over its successor's call.
                if self._call is not None and self._call[0] is me:
                    self._call = None

    def look(self) -> float:
        """Report a stalled call; return the seconds until the next check can find one."""
        with self._lock:
            if self._call is None:
                return self._limit_seconds
            thread, began = self._call
            left = began + self._limit_seconds - self._clock()
            if left > 0:
                return left
            self._call = None
        self._on_stall(thread)
        return self._limit_seconds

    def close(self) -> None:
        """End the thread; the next watched call starts a new one."""
        self._closed.set()

    def join(self) -> None:
        """Wait for the closed thread to end; until then it keeps ``on_stall`` alive."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _ensure_alive(self) -> None:
        if self._thread is not None and not self._closed.is_set():
            if self._thread.is_alive():
                return
            logger.error("%s had died and is replaced", self._name)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._closed,), name=self._name, daemon=True
        )
        self._thread.start()

    def _run(self, closed: threading.Event) -> None:
        pause = 0.0
        while not closed.wait(max(pause, _SHORTEST_PAUSE_SECONDS)):
            try:
                pause = min(self.look(), _LONGEST_PAUSE_SECONDS)
            except Exception:
                logger.exception("%s failed in a look, and goes on", self._name)
                pause = _LONGEST_PAUSE_SECONDS
