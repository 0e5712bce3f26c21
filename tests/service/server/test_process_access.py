"""Keys, addresses and proxies of the real process; its documentation page in a real browser."""

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.support.api_keys import bearer, entry, listed
from tests.support.pictures import request_of
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

KEYS = listed(entry("asker", "asker's", "explain"), entry("prometheus", "prometheus'", "metrics"))


def test_keys_and_addresses_are_as_the_environment_says(tiny_model: str) -> None:
    with Server(
        tiny_model, api_keys=KEYS, admin_port=0, trusted_proxies="10.0.0.0/8"
    ) as server:  # fmt: skip
        server.wait_for_health()
        spoofed = {"X-Forwarded-For": "203.0.113.9"}
        assert server.explain(request_of(), **bearer("asker's"), **spoofed).status_code == 200
        assert server.explain(request_of()).status_code == 401
        assert server.client.get("/metrics", headers=bearer("prometheus'")).status_code == 404
        metrics = httpx.get(
            f"{server.admin_url}/metrics", headers=bearer("prometheus'"), timeout=60
        )
        assert 'legrad_requests_total{route="/explain",status="401"} 1.0' in metrics.text
        server.signal(15)
        assert server.wait() == 0
        lines = [line for line in server.log if line.get("event") == "answered"]
        assert {line["client"] for line in lines} == {"127.0.0.1"}
        assert [line["key"] for line in lines if line["route"] == "/explain"] == ["asker", None]
        assert "asker's" not in "".join(server.log_lines)


@pytest.mark.parametrize("setting", ["LEGRAD_API_KEYS", "LEGRAD_API_KEYS_FILE"])
def test_a_server_with_a_wrong_list_of_keys_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    wrong = KEYS.replace("explain", "write")
    path = tmp_path / "keys.json"
    path.write_text(wrong)
    monkeypatch.setattr("service.server.process.configure_logs", lambda *_: None)
    monkeypatch.setenv("LEGRAD_MODELS", "starter")
    monkeypatch.setenv(setting, str(path) if setting.endswith("FILE") else wrong)
    ended = CliRunner().invoke(app, ["serve", "--port", "0"])
    assert ended.exit_code == 2
    assert isinstance(ended.exception, SystemExit)
    assert "entry 1, scopes" in ended.output
    assert "Traceback" not in ended.output
    assert entry("asker", "asker's")["sha256"] not in ended.output


def test_the_documentation_page_works_under_its_policy(server: Server, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "Install Chromium (apt-get install chromium) to run this test."
    seen = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path}", "--enable-logging=stderr",
            "--virtual-time-budget=30000", "--dump-dom", f"{server.url}/docs",
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    # Only a running script with the fetched contract can draw these.
    assert "Explain pictures" in seen.stdout, seen.stderr
    assert "opblock-summary-post" in seen.stdout
    complaints = [line for line in seen.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
