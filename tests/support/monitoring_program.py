"""A real monitoring program with an HTTP interface, on a port that is chosen for it."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import httpx

from tests.support.plain_http import plain_client

_PATIENCE_SECONDS = 60.0
_ATTEMPTS = 5


class MonitoringProgram:
    """The process, as a context manager.

    Attributes:
        address: host and port of its interface.
        client: a client of it.
    """

    def __init__(self, log: Path, command: Callable[[str], Sequence[str]]) -> None:
        """Start the program and wait until it is ready.

        Args:
            log: file for its output.
            command: from its address to its command line.
        """
        self._log = log
        # It does not tell which port it took, so one is chosen for it, and another is tried if
        # that one was taken meanwhile.
        for _ in range(_ATTEMPTS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.address = f"127.0.0.1:{probe.getsockname()[1]}"
            with log.open("w") as output:
                self._process = subprocess.Popen(
                    command(self.address),
                    env=os.environ | {"GOMAXPROCS": "1"},
                    stdout=output,
                    stderr=output,
                )
            self.client = plain_client(f"http://{self.address}", timeout=30)
            if self._came_up():
                return
            self.close()
            if "address already in use" not in log.read_text():
                break
        raise AssertionError(f"It did not start: {log.read_text()}")

    def _came_up(self) -> bool:
        def settled() -> bool:
            try:
                return self.client.get("/-/ready").status_code == 200
            except httpx.TransportError:
                return self._process.poll() is not None

        self.eventually(settled)
        return self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.client.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait, for a bounded time, until a condition holds."""
        pause = threading.Event()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
            pause.wait(0.1)
