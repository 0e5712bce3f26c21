"""The launcher and its processes: small, quiet, and gone with their server."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from service.pictures.processes import Launcher
from tests.support.picture_workers import children, runs
from tests.support.running_server import Server

HEAVY = ("torch", "torchvision", "pydantic", "fastapi", "uvicorn", "open_clip", "timm", "structlog")


def test_picture_processes_import_neither_torch_nor_the_server() -> None:
    program = (
        "import sys, service.pictures.launcher; "
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == ""


def ended(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while any(map(runs, pids)):
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_leaves_no_process(tiny_model: str, number: int) -> None:
    with Server(tiny_model, picture_processes=2) as server:
        server.wait_for_health()
        server.poll_metric("legrad_picture_processes", 2)
        pids = children(server.pid)
        assert len(pids) == 3
        # One works, as far as anybody can tell.
        os.kill(pids[-1], signal.SIGSTOP)
        server.signal(number)
        assert server.wait() == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert ended(pids)


def test_signals_of_a_terminal_do_not_end_the_processes(tiny_model: str) -> None:
    with Server(tiny_model, picture_processes=2) as server:
        server.wait_for_health()
        server.poll_metric("legrad_picture_processes", 2)
        pids = children(server.pid)
        for pid in pids:
            assert os.getpgid(pid) != os.getpgid(server.pid)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        threading.Event().wait(0.1)
        assert children(server.pid) == pids


def test_a_launcher_that_is_killed_is_started_again(tiny_model: str) -> None:
    with Server(tiny_model, picture_processes=1) as server:
        server.wait_for_health()
        pids = children(server.pid)
        os.kill(pids[0], signal.SIGKILL)
        assert ended(pids)
        server.poll("/metrics", lambda _: len(children(server.pid)) == 2)
        server.wait_for_health()


def test_a_launcher_that_cannot_start_is_logged_and_the_server_is_not_ready(
    tiny_model: str,
) -> None:
    with Server(tiny_model, picture_processes=1, program=without_launcher) as server:
        server.wait_for_log(
            lambda entry: entry["event"] == "a picture process could not be started"
        )
        answer = server.client.get("/health/ready")
        assert answer.status_code == 503
        assert "picture process" in answer.json()["detail"]
        assert server.client.get("/health/live").status_code == 200


def without_launcher() -> None:
    Launcher.launch = refuse  # type: ignore[method-assign, assignment]
    from service.__main__ import main

    main()


def refuse(self: Launcher) -> None:
    raise OSError("no more processes")
