"""A real Prometheus that scrapes real servers with the configuration of this repository."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.support.paths import DOCKER

PROMETHEUS_FILES = DOCKER / "prometheus"
_START_SECONDS = 60.0
_ATTEMPTS = 5


class Prometheus:
    """A Prometheus process, as a context manager.

    The configuration is that of ``docker/prometheus``, with other addresses and with shorter
    intervals, so that a test does not wait for minutes.
    """

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        config = yaml.safe_load((PROMETHEUS_FILES / "prometheus.yml").read_text())
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": list(targets)}]
        config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        for name in config["rule_files"]:
            shutil.copy(PROMETHEUS_FILES / name, folder)
        self._folder = folder
        self._log = folder / "prometheus.log"
        self._start()

    def _start(self) -> None:
        # It does not tell which port it took, so one is chosen for it, and another is tried if
        # that one was taken meanwhile.
        for _ in range(_ATTEMPTS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [
                        "prometheus",
                        f"--config.file={self._folder / 'prometheus.yml'}",
                        f"--storage.tsdb.path={self._folder / 'data'}",
                        f"--web.listen-address=127.0.0.1:{port}",
                    ],
                    env=os.environ | {"GOMAXPROCS": "1"},
                    stdout=log,
                    stderr=log,
                )
            self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
            if self._came_up():
                return
            self.close()
            if "address already in use" not in self._log.read_text():
                break
        raise AssertionError(f"Prometheus did not start: {self._log.read_text()}")

    def _came_up(self) -> bool:
        pause = threading.Event()
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self.client.get("/-/ready").status_code == 200 and self._process.poll() is None:
                    return True
            except httpx.TransportError:
                pass
            pause.wait(0.1)
        return False

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

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; fail if Prometheus refuses it."""
        answer = self.client.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health, as last evaluated."""
        groups = self.client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]
