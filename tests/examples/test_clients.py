"""The examples for application developers, as they would run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from tests.support.paths import EXAMPLES
from tests.support.running_app import RunningApp
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

PICTURE = EXAMPLES / "coffee.webp"
CLIENTS = EXAMPLES / "clients"


def run(server: Server, folder: Path, *command: str | Path, **environment: str) -> bytes:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env={**os.environ, "LEGRAD_URL": server.url, **environment},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def assert_overlay(path: Path) -> None:
    with Image.open(path) as overlay, Image.open(PICTURE) as original:
        assert overlay.size == original.size


def test_python(server: Server, tmp_path: Path) -> None:
    said = run(server, tmp_path, sys.executable, CLIENTS / "explain.py", PICTURE, "a cup", "a cat")
    assert said.decode().startswith("a cup: ")
    assert_overlay(tmp_path / "a cup.jpg")
    assert_overlay(tmp_path / "a cat.jpg")


def test_curl(server: Server, tmp_path: Path) -> None:
    picture = run(server, tmp_path, CLIENTS / "explain.sh", PICTURE, "a cup")
    (tmp_path / "overlay.jpg").write_bytes(picture)
    assert_overlay(tmp_path / "overlay.jpg")


def test_javascript(server: Server, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node, "install Node.js 18 or later"
    said = run(server, tmp_path, node, CLIENTS / "explain.mjs", PICTURE, "a cup", "a cat")
    assert said.decode().startswith("a cup: ")
    assert_overlay(tmp_path / "a cat.jpeg")


def test_javascript_comes_back_to_a_busy_server(running: RunningApp, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node, "install Node.js 18 or later"
    refused = 'legrad_rejected_total{reason="queue-full"}'
    before = running.metric(refused)
    with running.full():
        waiting = subprocess.Popen(
            [node, str(CLIENTS / "explain.mjs"), str(PICTURE), "a cup"],
            cwd=tmp_path,
            env=os.environ | {"LEGRAD_URL": f"http://{running.host}:{running.port}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        running.eventually(lambda: running.metric(refused) > before)
    said, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 0
    assert said.startswith("a cup: ")
    assert_overlay(tmp_path / "a cup.jpeg")


def test_javascript_gives_the_reason_of_a_refusal(running: RunningApp, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node, "install Node.js 18 or later"
    (tmp_path / "notes.txt").write_text("not a picture")
    done = subprocess.run(
        [node, str(CLIENTS / "explain.mjs"), "notes.txt", "a cup"],
        cwd=tmp_path,
        env=os.environ | {"LEGRAD_URL": f"http://{running.host}:{running.port}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "The image cannot be decoded" in done.stderr


def test_mlflow_holds_what_was_logged(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    script = CLIENTS / "log_to_mlflow.py"
    run(
        server, tmp_path, sys.executable, script, PICTURE, "a cup", "what's this?",
        MLFLOW_TRACKING_URI=store,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    tracking = mlflow.MlflowClient(store)
    (found,) = tracking.search_runs(["0"])
    assert found.data.params["model"] == "tiny-tiny"
    assert -1 <= found.data.metrics["similarity/a cup"] <= 1
    assert 0 <= found.data.metrics["entropy/what_s this_"] <= 1
    files = Path(tracking.download_artifacts(found.info.run_id, "", str(tmp_path)))
    assert_overlay(files / "overlays" / "a cup.jpg")
    assert np.load(files / "maps" / "a cup.npy").shape == (4, 4)
