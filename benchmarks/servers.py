"""Servers for measurements, each in its own processes on a free local port."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import torch

_START_SECONDS = 300.0
_END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Running server that is ready.

    Attributes:
        url: base address.
        pid: process id of its first process.
    """

    url: str
    pid: int

    def resident_bytes(self) -> int:
        """Measure the resident memory of all its processes."""
        return sum(each.memory_info().rss for each in self._processes())

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend all its processes: some servers keep a core busy even without requests."""
        for process in self._processes():
            process.suspend()
        try:
            yield
        finally:
            for process in self._processes():
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def legrad(models: str, **settings: object) -> Iterator[RunningServer]:
    """Run ``legrad serve`` on the CPU with ``LEGRAD_*`` settings; yield it when it is ready."""
    chosen: dict[str, object] = {
        "models": models,
        "device": "cpu",
        "compute_threads": torch.get_num_threads(),
        "log_level": "warning",
        **settings,
    }
    own = {f"LEGRAD_{name.upper()}": str(value) for name, value in chosen.items()}
    command = [str(Path(sys.executable).with_name("legrad")), "serve", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | own, start_new_session=True
    )
    try:
        if process.stdout is None:
            raise RuntimeError("the server has no output")
        announced, _, url = process.stdout.readline().strip().partition("Listening on ")
        if announced or not url:
            raise RuntimeError(f"the server did not start: {announced!r}")
        wait_until_answered(f"{url}/health/ready")
        yield RunningServer(url, process.pid)
    finally:
        _end(process)


@contextmanager
def peer(
    module: str,
    health: str,
    arguments: Sequence[str],
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """Run another server, a module of this package; yield it when it is ready.

    Args:
        module: module to run, with the port as its first argument.
        health: path that answers 200 once the model is loaded.
        arguments: arguments after the port.
        variables: environment variables beside those of this process, if any.
    """
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(port), *arguments],
        env={**os.environ, **(variables or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_answered(url + health)
        yield RunningServer(url, process.pid)
    finally:
        _end(process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_answered(address: str) -> None:
    """Wait until an address answers 200; raise an error after a bounded time."""
    pause = threading.Event()
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(address):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{address} did not become ready")
        pause.wait(0.1)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a server and its child processes, which form a session of their own."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
