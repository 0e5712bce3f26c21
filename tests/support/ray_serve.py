"""A Ray cluster of one node on the loopback interface, with the shipped configuration changed."""

import copy
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import psutil
import yaml

from tests.support.paths import DOCKER, ROOT
from tests.support.plain_http import plain_client
from tests.support.ray_jobs import PATIENT
from tests.support.running_app import samples

_PATIENCE_SECONDS = 600.0
_REPLICA = "ray::ServeReplica:legrad:legrad"


def shipped() -> dict[str, Any]:
    """Return the content of ``docker/ray/serve.yaml``."""
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "ray" / "serve.yaml").read_text())
    return loaded


def ray_environment() -> dict[str, str]:
    """Return the environment of programs with Ray, which keep to the loopback interface."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEGRAD_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        # Otherwise its processes listen on the machine's other address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        **PATIENT,
    }


class RayCluster:
    """The cluster, as a context manager; nothing is deployed at first."""

    def __init__(self, cores: int = 4) -> None:
        """Start it.

        Args:
            cores: cores that Ray believes to have.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # Open as long as the program runs.
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        self._program = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ray_program", str(cores)],
            cwd=ROOT,
            env=ray_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.client = plain_client(self.url, timeout=_PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        started = self._processes
        assert self._program.stdin is not None
        self._program.stdin.close()
        try:
            self._program.wait(_PATIENCE_SECONDS)
        finally:
            for process in psutil.wait_procs(started, timeout=10)[1]:
                process.kill()
            self._program.kill()
            self._program.wait()
            self._errors.close()

    def deploy(self, replicas: int, **settings: object) -> dict[str, str]:
        """Deploy the shipped configuration with so many replicas and these ``LEGRAD_*`` settings.

        Returns:
            The status of the application once it settles, and its message.
        """
        config = copy.deepcopy(shipped())
        config["http_options"] |= {"port": self.port, "request_timeout_s": _PATIENCE_SECONDS}
        (application,) = config["applications"]
        application["runtime_env"]["env_vars"] |= {
            f"LEGRAD_{name.upper()}": str(value) for name, value in settings.items()
        }
        (deployment,) = application["deployments"]
        deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
        deployment["ray_actor_options"]["num_cpus"] = 1
        program = self._program
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(config) + "\n")
        program.stdin.flush()
        for line in program.stdout:
            if line.startswith("{"):
                answer: dict[str, str] = json.loads(line)
                return answer
        status = program.wait()
        self._errors.seek(0)
        raise AssertionError(
            f"The cluster ended with status {status}: {self._errors.read()[-3000:]}"
        )

    @property
    def replicas(self) -> list[psutil.Process]:
        """The processes of the replicas."""
        return [each for each in self._processes if _name(each) == _REPLICA]

    @property
    def _processes(self) -> list[psutil.Process]:
        if self._program.poll() is not None:
            return []
        return psutil.Process(self._program.pid).children(recursive=True)

    def metric(self, sample: str) -> float:
        """Return the value of one sample of the only replica; 0 before it exists."""
        return samples(self.client.get("/metrics").text).get(sample, 0.0)

    def wait_for_metric(self, sample: str, value: float) -> None:
        """Wait until the sample has the value; fail after a bounded time."""
        self.eventually(lambda: self.metric(sample) == value)

    def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait, for a bounded time, until a condition holds."""
        pause = threading.Event()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, "It never came about."
            pause.wait(0.05)


def _name(process: psutil.Process) -> str:
    try:
        # Empty for a process that has just ended.
        return next(iter(process.cmdline()), "")
    except psutil.Error:
        return ""
