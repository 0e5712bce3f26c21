"""The audit fails on a known vulnerability, and says so where it could not be checked."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

LOCK = f"harmless==1.0 --hash=sha256:{'0' * 64}\nholed==1.0 --hash=sha256:{'1' * 64}\n"
ADVISORY = {
    "id": "PYSEC-2026-1",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "It has a hole.",
    "affected": [
        {
            "package": {"name": "holed", "ecosystem": "PyPI"},
            "ranges": [
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]},
            ],
            "versions": ["1.0"],
        }
    ],
}


class _Service(BaseHTTPRequestHandler):
    """As api.osv.dev answers its `/v1/query`."""

    holed: tuple[str, ...] = ()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = asked["package"]["name"] in self.holed
        body = json.dumps({"vulns": [ADVISORY]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Service", (_Service,), {}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def audit(tmp_path: Path, port: int) -> subprocess.CompletedProcess[str]:
    lock = tmp_path / "some.lock"
    lock.write_text(LOCK)
    url = f"http://127.0.0.1:{port}/v1/query"
    return subprocess.run(
        [sys.executable, "-m", "tools.audit", "--osv-url", url, str(lock)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_packages_without_known_vulnerabilities_pass(
    service: ThreadingHTTPServer, tmp_path: Path
) -> None:
    finished = audit(tmp_path, service.server_port)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "2 packages, no known vulnerability" in finished.stdout


def test_a_known_vulnerability_fails_and_is_named_with_its_fix(
    service: ThreadingHTTPServer, tmp_path: Path
) -> None:
    service.RequestHandlerClass.holed = ("holed",)  # type: ignore[attr-defined]
    finished = audit(tmp_path, service.server_port)
    assert finished.returncode == 1
    assert "holed 1.0: PYSEC-2026-1 (fixed in 1.1)" in finished.stdout
    assert "harmless" not in finished.stdout


def test_a_service_out_of_reach_is_said_loudly_and_is_no_pass(
    service: ThreadingHTTPServer, tmp_path: Path
) -> None:
    port = service.server_port
    service.socket.close()
    finished = audit(tmp_path, port)
    assert finished.returncode == 2
    assert "COULD NOT BE CHECKED" in finished.stdout


@pytest.mark.parametrize(("status", "goes_on"), [(0, True), (1, False), (2, True)])
def test_lint_goes_on_without_a_service_but_not_with_a_vulnerability(
    status: int, goes_on: bool, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexit {status}\n")
    program.chmod(0o755)
    command = ["make", "--no-print-directory", "audit-if-possible", f"BIN={tmp_path}"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    assert (finished.returncode == 0) == goes_on
