"""A real server in a process of its own."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from service.__main__ import main
from tests.support.api_keys import bearer, entry, listed
from tests.support.forked_program import ForkedProgram
from tests.support.plain_http import plain_client

LEGRAD = Path(sys.executable).with_name("legrad")
_START_SECONDS = 60.0


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment, with these ``LEGRAD_*`` settings alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEGRAD_")}
    own = {f"LEGRAD_{name.upper()}": str(value) for name, value in settings.items()}
    return kept | {"OMP_NUM_THREADS": "1"} | own


class Server:
    """A process of ``legrad serve``, on a free port by default, as a context manager."""

    def __init__(
        self,
        models: str,
        *,
        key: str | None = None,
        program: Sequence[str] | Callable[[], None] = main,
        reads_log: bool = True,
        **settings: object,
    ) -> None:
        """Start it.

        Args:
            models: setting of this name.
            key: API key that has all scopes and is sent by the client; without it none is needed.
            program: a command, started as by an operator, or the main function of a Python program,
                run in a forked process, which starts ten times as fast.
            reads_log: whether somebody reads standard error, a pipe.
            settings: other settings, by their names without the prefix.
        """
        if key is not None:
            settings["api_keys"] = listed(entry("operator", key, "explain", "admin", "metrics"))
        variables = environment(**{"port": 0, "models": models, "compute_threads": 1, **settings})
        self._process: subprocess.Popen[str] | ForkedProgram
        if callable(program):
            self._process = ForkedProgram(program, (str(LEGRAD), "serve"), variables)
        else:
            self._process = subprocess.Popen(
                [*program, "serve"],
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdout is not None
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        if reads_log:
            self._reader.start()
        line = self._process.stdout.readline()
        announced, _, self.url = line.strip().partition("Listening on ")
        assert self.url, f"{line!r} {self._errors}"
        assert not announced
        self.host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.port = int(port)
        self.client = plain_client(self.url, timeout=60)
        self.client.headers.update({} if key is None else bearer(key))
        self.admin_url = ""
        if "admin_port" in settings:
            _, _, self.admin_url = self._process.stdout.readline().strip().partition("Admin on ")
            assert self.admin_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.read_log()

    @property
    def log_lines(self) -> list[str]:
        """The lines that the server has written to standard error."""
        return list(self._errors)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The parsed log lines; fails if a line is not JSON."""
        return [json.loads(line) for line in self._errors]

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the process, in bytes; on Linux only."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])

    @property
    def threads(self) -> int:
        """The number of threads of the process; on Linux only."""
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def explain(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        """Post a JSON body to ``/explain``."""
        return self.client.post("/explain", json=body, headers=headers)

    def wait_for_health(self, status: int = 200) -> httpx.Response:
        """Poll ``/health/ready`` until it answers with the status."""
        return self.poll("/health/ready", lambda response: response.status_code == status)

    def poll(self, path: str, wanted: Any) -> httpx.Response:
        """Poll a path until the answer is as wanted; fail after a bounded time."""
        pause = threading.Event()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            response = self.client.get(path)
            if wanted(response):
                return response
            assert time.monotonic() < deadline, response.text[:1000]
            pause.wait(0.02)

    def wait_until_refused(self) -> None:
        """Wait until the server accepts no new connection; fail after a bounded time."""
        pause = threading.Event()
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.host, self.port), timeout=10).close()
            except ConnectionRefusedError:
                return
            pause.wait(0.02)
        raise AssertionError("It still accepts connections.")

    def wait_for_log(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a wanted log entry and return the first; fail after a bounded time."""
        pause = threading.Event()
        deadline = time.monotonic() + _START_SECONDS
        while not (found := [entry for entry in self.log if wanted(entry)]):
            assert time.monotonic() < deadline, self.log_lines[-20:]
            pause.wait(0.02)
        return found[0]

    def metric(self, sample: str) -> float:
        """Return the value of one sample, named as in the exposition."""
        return _value(self.client.get("/metrics"), sample)

    def poll_metric(self, sample: str, value: float) -> None:
        """Poll until the sample has the value; fail after a bounded time."""
        self.poll("/metrics", lambda response: _value(response, sample) == value)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def lift_file_limit(self) -> None:
        """Remove the limit on the size of files of the process; on Linux only."""
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (hard, hard))

    def wait(self, timeout: float = 60) -> int:
        """Wait until the process ends by itself; return its exit status."""
        code = self._process.wait(timeout)
        self.read_log()
        return code

    def read_log(self) -> None:
        """Read the log to its end, which is that of the process."""
        if self._reader.ident is None:
            self._reader.start()
        self._reader.join()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)


def _value(exposition: httpx.Response, sample: str) -> float:
    for line in exposition.text.splitlines():
        name, _, value = line.rpartition(" ")
        if name == sample:
            return float(value)
    raise AssertionError(f"{sample} is not exposed")
