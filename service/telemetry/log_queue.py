"""Writing of log lines by a thread of its own: nothing that logs ever waits for their reader."""

import logging
import os
import queue
import select
import threading

LOG_THREAD = "log"

# About 2 MB of lines of usual length.
_MOST_LINES = 4096
_MOST_BYTES_AT_ONCE = 65_536


class LogQueue(logging.Handler):
    """Handler that formats an entry where it arises and leaves the writing to a thread.

    Lines are dropped and counted where the queue is full, or where they cannot be written.
    """

    def __init__(self, descriptor: int, most_lines: int = _MOST_LINES) -> None:
        """Start the thread.

        Args:
            descriptor: file descriptor to write to. The lines bypass Python's buffer of it, whose
                lock would be held by a write that never ends.
            most_lines: lines that may wait to be written.
        """
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes] = queue.Queue(most_lines)
        self._counting = threading.Lock()
        self._dropped = 0
        # The interpreter does not wait for it: the reader may never come back.
        threading.Thread(target=self._write_lines, name=LOG_THREAD, daemon=True).start()

    @property
    def dropped(self) -> int:
        """The number of lines that were dropped."""
        return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of an entry; drop it if the queue is full."""
        try:
            self._lines.put_nowait(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except queue.Full:
            self._drop(1)
        except Exception:
            self.handleError(record)

    def wait_until_written(self, seconds: float) -> None:
        """Wait until every queued line is written or dropped, but not longer than this."""
        lines = self._lines
        with lines.all_tasks_done:
            lines.all_tasks_done.wait_for(lambda: not lines.unfinished_tasks, seconds)

    def _write_lines(self) -> None:
        while True:
            lines = [self._lines.get()]
            size = len(lines[0])
            while size < _MOST_BYTES_AT_ONCE:
                try:
                    lines.append(self._lines.get_nowait())
                except queue.Empty:
                    break
                size += len(lines[-1])
            try:
                _write(self._descriptor, b"".join(lines))
            except OSError:
                # The disk is full, or the reader has gone.
                self._drop(len(lines))
            for _ in lines:
                self._lines.task_done()

    def _drop(self, lines: int) -> None:
        with self._counting:
            self._dropped += lines


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            # Another process has made the pipe that both write to non-blocking.
            select.select([], [descriptor], [])
