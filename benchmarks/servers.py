"""Servers to measure, each in processes of its own on a free port of this machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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
    """A server that answers.

    Attributes:
        url: its base address.
        pid: of its first process.
    """

    url: str
    pid: int

    def resident_bytes(self) -> int:
        """Memory of all its processes."""
        return sum(each.memory_info().rss for each in self._processes())

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Meanwhile none of its processes runs: some keep a core busy although nobody asks them."""
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
    """``legrad serve`` once it is ready, on the CPU, with these ``LEGRAD_*`` settings."""
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
        _wait_until_answered(f"{url}/health/ready")
        yield RunningServer(url, process.pid)
    finally:
        _end(process)


@contextmanager
def peer(module: str, health: str, arguments: Sequence[str]) -> Iterator[RunningServer]:
    """Another server, a module of this package, once its health address answers 200.

    Args:
        module: it is run with the port as its first argument.
        health: path that answers when the model is loaded.
        arguments: what follows the port.
    """
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(port), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_answered(url + health)
        yield RunningServer(url, process.pid)
    finally:
        _end(process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_answered(address: str) -> None:
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
    """Ends a server and the processes that it started; those are in a session of their own."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
