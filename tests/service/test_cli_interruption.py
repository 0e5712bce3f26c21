"""Ctrl-C during `legrad explain`, in a process of its own."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.support.pictures import encoded, picture
from tests.support.running_server import environment

pytestmark = pytest.mark.slow

PICTURES = 32

# The program, which explains the first batch of pictures and then waits until it is interrupted.
PROGRAM = """
import threading

from service.__main__ import main
from service.bulk.computing import FolderExplainer

explain, begun = FolderExplainer.explain, threading.Event()

def explain_once(self, read):
    if begun.is_set():
        threading.Event().wait()
    begun.set()
    return explain(self, read)

FolderExplainer.explain = explain_once
main()
"""


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Let programs react to SIGINT, which shells ignore in what they run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def command(pictures: Path, output: Path, model: str) -> list[str]:
    return ["explain", str(pictures), "a cat", "-o", str(output), "--model", model]


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(tiny_model: str, tmp_path: Path) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "output"
    pictures.mkdir()
    for number in range(PICTURES):
        content = encoded(picture(60, 40, seed=number), "JPEG")
        (pictures / f"{number:02}.jpg").write_bytes(content)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command(pictures, output, tiny_model)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    manifest = output / "manifest.jsonl"
    give_up = time.monotonic() + 120
    # An outcome may be written and not counted yet: with three, one is counted.
    while not (manifest.is_file() and manifest.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert printed == ""
    (found,) = re.findall(
        rf"^Interrupted: (\d+) of {PICTURES} explained; run the same command again to go on\.$",
        errors,
        re.M,
    )
    explained = int(found)
    assert 0 < explained < PICTURES
    assert "Traceback" not in errors

    resumed = CliRunner().invoke(app, command(pictures, output, tiny_model))
    assert resumed.exit_code == 0, resumed.output
    counts = re.search(r"^(\d+) explained, (\d+) done before: ", resumed.output, re.M)
    assert counts, resumed.output
    assert int(counts[1]) + int(counts[2]) == PICTURES
    assert explained <= int(counts[2]) <= explained + 1
