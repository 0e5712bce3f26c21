"""Progress of a job: a bar on a terminal, a line of JSON every few seconds elsewhere."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_BAR_SECONDS = 0.5
_LINE_SECONDS = 5.0


@contextmanager
def progress(total: int, done: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """Show progress on stderr until the context ends.

    Args:
        total: pictures to compute.
        done: returns the numbers of computed pictures and of failed ones among them; called in
            another thread.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        with _polled(_Lines(total, done), _LINE_SECONDS):
            yield
        return
    from rich.progress import Progress

    with Progress(console=console) as bars:
        task = bars.add_task("Explaining", total=total)
        with _polled(lambda: bars.update(task, completed=min(done()[0], total)), _BAR_SECONDS):
            yield


class _Lines:
    """Prints a line of JSON at each call."""

    def __init__(self, total: int, done: Callable[[], tuple[int, int]]) -> None:
        self._total, self._done = total, done
        self._began = time.monotonic()

    def __call__(self) -> None:
        done, failed = self._done()
        seconds = time.monotonic() - self._began
        line: dict[str, Any] = {
            "event": "progress",
            "total": self._total,
            # A block that is computed again is counted again.
            "done": min(done, self._total),
            "failed": failed,
            "seconds": round(seconds, 1),
            "per_second": round(done / seconds, 2),
        }
        print(json.dumps(line), file=sys.stderr, flush=True)


@contextmanager
def _polled(show: Callable[[], object], seconds: float) -> Iterator[None]:
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            show()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    # The end, which a job may reach long before the next look.
    show()
