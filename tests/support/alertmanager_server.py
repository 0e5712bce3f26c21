"""A real Alertmanager with the configuration of this repository, and a receiver of messages."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.monitoring_program import MonitoringProgram
from tests.support.paths import DOCKER

ALERTMANAGER_FILE = DOCKER / "alertmanager" / "alertmanager.yml"


class Receiver:
    """A webhook on a free loopback port that keeps its messages, as a context manager."""

    def __init__(self) -> None:
        messages: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Write nothing."""

        self.messages = messages
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Alertmanager(MonitoringProgram):
    """An Alertmanager process, as a context manager.

    It waits for no further alerts of a group, and its receiver has a webhook.
    """

    def __init__(self, folder: Path, webhook: str) -> None:
        config = yaml.safe_load(ALERTMANAGER_FILE.read_text())
        config["route"]["group_wait"] = "1s"
        (receiver,) = config["receivers"]
        receiver["webhook_configs"] = [{"url": webhook}]
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))

        def command(address: str) -> list[str]:
            return [
                "prometheus-alertmanager",
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ]

        super().__init__(folder / "alertmanager.log", command)

    def send(self, *alerts: dict[str, str]) -> None:
        """Send firing alerts, given by their labels, as Prometheus does."""
        answer = self.client.post("/api/v2/alerts", json=[{"labels": each} for each in alerts])
        assert answer.status_code == 200, answer.text

    def alerts(self) -> list[dict[str, Any]]:
        """Return every alert with its state."""
        found: list[dict[str, Any]] = self.client.get("/api/v2/alerts").json()
        return found
