"""Writing of log lines by a thread of its own: nothing that logs ever waits for their reader."""

import json
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable

LOG_THREAD = "log"

# About 2 MB of lines of usual length.
_MOST_LINES = 4096
_MOST_BYTES = 4_000_000
# In characters. Only a library that quotes a caller, or a very deep traceback, writes so much.
_LONGEST_LINE = 65_536
_LONGEST_PART = 16_384
# A pipe takes so much as a whole or not at all: a process that ends leaves no half of a line.
_MOST_BYTES_AT_ONCE = select.PIPE_BUF
# Lines of so long a time are written together: waking the thread costs as much as rendering a line.
_PAUSE_SECONDS = 0.05


def cut_text(line: str) -> str:
    """Return the beginning of a line that is too long, and how much is missing."""
    return f"{line[:_LONGEST_PART]}… (cut after {_LONGEST_PART} of {len(line)} characters)"


def cut_json(line: str) -> str:
    """Return a JSON object with the beginning of a line that is too long."""
    return json.dumps(
        {
            "event": "log line cut",
            "level": "warning",
            "characters": len(line),
            "beginning": line[:_LONGEST_PART],
        }
    )


class LogQueue(logging.Handler):
    """Handler that formats an entry where it arises and leaves the writing to a thread.

    Lines are dropped and counted where the queue is full, or where they cannot be rendered or
    written. A very long line is cut.
    """

    def __init__(
        self,
        descriptor: int,
        most_lines: int = _MOST_LINES,
        cut: Callable[[str], str] = cut_text,
    ) -> None:
        """Start the thread.

        Args:
            descriptor: file descriptor to write to. The lines bypass Python's buffer of it, whose
                lock would be held by a write that never ends.
            most_lines: lines that may wait to be written, as long as they have few megabytes.
            cut: shortens a line that is too long.
        """
        super().__init__()
        self._descriptor = descriptor
        self._most_lines = most_lines
        self._cut = cut
        self._lines: deque[bytes] = deque()
        self._any = threading.Event()
        self._urgent = threading.Event()
        self._written = threading.Condition()
        self._writing = False
        # A signal's handler may log while its thread does.
        self._counting = threading.RLock()
        self._bytes = 0
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
            self.put(self.format(record))
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """Count the entry as dropped.

        Python would write to standard error itself, and wait for the reader.
        """
        self._drop(1)

    def put(self, line: str) -> None:
        """Queue a line; drop it if the queue is full."""
        if len(line) > _LONGEST_LINE:
            line = self._cut(line)
        encoded = f"{line}\n".encode(errors="backslashreplace")
        with self._counting:
            filled = max(
                len(self._lines) / self._most_lines, (self._bytes + len(encoded)) / _MOST_BYTES
            )
            if filled >= 1:
                self._dropped += 1
                return
            self._lines.append(encoded)
            self._bytes += len(encoded)
        # Setting an event that is set would still take its lock.
        if not self._any.is_set():
            self._any.set()
        if 2 * filled > 1 and not self._urgent.is_set():
            self._urgent.set()

    def wait_until_written(self, seconds: float) -> None:
        """Wait until every queued line is written or dropped, but not longer than this."""
        self._urgent.set()
        with self._written:
            self._written.wait_for(lambda: not (self._lines or self._writing), seconds)

    def _write_lines(self) -> None:
        while True:
            self._any.wait()
            # Cleared first: a line that is queued from now on sets it again.
            self._any.clear()
            self._urgent.clear()
            self._writing = True
            while self._lines:
                self._write_some()
            with self._written:
                self._writing = False
                self._written.notify_all()
            self._urgent.wait(_PAUSE_SECONDS)

    def _write_some(self) -> None:
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= _MOST_BYTES_AT_ONCE:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        with self._counting:
            self._bytes -= size
        try:
            _write(self._descriptor, b"".join(lines))
        except OSError:
            # The disk is full, or the reader has gone.
            self._drop(len(lines))

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
