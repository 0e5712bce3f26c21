"""Listening sockets: Unix sockets, those of systemd, and addresses that cannot be used."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.server.sockets import listen_at, listen_for, remove
from service.settings import Settings
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp
from tests.support.running_server import LEGRAD, Server

# Binds two ports and becomes the server, as systemd does it.
ACTIVATOR = f"""
import os, socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for number, each in enumerate(sockets, 3):
    os.dup2(each.fileno(), number + 10)
for number in (3, 4):
    os.dup2(number + 10, number)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin"}}
os.execv({str(LEGRAD)!r}, ["legrad", "serve"])
"""


def test_a_server_answers_on_a_unix_socket(tiny_model: str, tmp_path: Path) -> None:
    path = tmp_path / "legrad.sock"
    with RunningApp(tiny_model, uds=path, admin_port=0, key="k" * 43) as running:
        assert running.explain().status_code == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        # The other address is for operators, and only that one.
        assert running.client.get("/metrics").status_code == 404
        url = f"http://127.0.0.1:{running.admin_port}"
        metrics = httpx.get(f"{url}/metrics", headers=running.client.headers)
        assert metrics.status_code == 200
        assert "legrad_ready" in metrics.text
        refused = httpx.post(f"{url}/explain", json=request_of(), headers=running.client.headers)
        assert refused.status_code == 404


def test_a_socket_that_an_ended_server_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "legrad.sock"
    settings, listeners = listen_for(Settings(uds=path))
    listeners.public[0].close()
    assert path.exists()
    settings, listeners = listen_for(settings)
    with listeners.public[0], socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        assert list(listeners.announcements()) == [f"Listening on unix:{path}"]
        remove(listeners, settings)
    assert not path.exists()


def test_the_socket_of_a_running_server_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "legrad.sock"
    with listen_at(path), pytest.raises(OSError, match=r"LEGRAD_UDS=.*already in use"):
        listen_at(path)
    assert path.exists()


def test_a_file_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("kept")
    with pytest.raises(OSError, match=r"LEGRAD_UDS=.*no socket"):
        listen_at(path)
    assert path.read_text() == "kept"


@pytest.mark.parametrize("name", ["missing/legrad.sock", "x" * 120])
def test_a_path_that_cannot_be_listened_on_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"LEGRAD_UDS=.*Give a path"):
        listen_at(tmp_path / name)


def test_sockets_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    _, listeners = listen_for(Settings(port=0))
    with listeners.public[0] as listener:
        assert listener.fileno() != 3


def test_an_inherited_file_that_does_not_listen_is_refused() -> None:
    program = (
        "import os, socket; from service.server.sockets import listen_for\n"
        "from service.settings import Settings\n"
        "pair = socket.socketpair(); os.dup2(pair[0].fileno(), 3)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
        "try:\n    listen_for(Settings())\n"
        "except OSError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "does not listen for streams" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_sockets_of_systemd_are_used(tiny_model: str) -> None:
    # The address of the settings is not one of this machine.
    with Server(
        tiny_model, program=(sys.executable, "-c", ACTIVATOR), port=1, host="192.0.2.1",
        admin_port=2,
    ) as server:  # fmt: skip
        server.wait_for_health()
        assert server.explain(request_of()).status_code == 200
        assert server.client.get("/metrics").status_code == 404
        assert httpx.get(f"{server.admin_url}/metrics").status_code == 200
