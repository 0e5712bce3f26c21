"""A real nginx in front of servers, each behind a path prefix."""

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Location:
    """One prefix of the proxy.

    Attributes:
        prefix: the prefix, without a last slash.
        upstream: `HOST:PORT`, or `unix:PATH`.
        removed: whether the proxy removes the prefix.
        headers: headers that the proxy adds.
    """

    prefix: str
    upstream: str
    removed: bool = True
    headers: Sequence[tuple[str, str]] = ()

    @property
    def block(self) -> str:
        """The block of nginx's configuration."""
        # With a path after the upstream, nginx puts it in place of the prefix.
        path = (":/" if self.upstream.startswith("unix:") else "/") if self.removed else ""
        added = "".join(f"proxy_set_header {name} {value};" for name, value in self.headers)
        return (
            f"location {self.prefix}/ {{ proxy_pass http://{self.upstream}{path}; "
            f"proxy_set_header Host $http_host; {added} }}"
        )


def check_configuration(folder: Path, blocks: str) -> None:
    """Check the blocks of a server of nginx; fail with nginx's own message."""
    configuration = folder / "nginx.conf"
    configuration.write_text(_in_server(folder, f"listen 127.0.0.1:1; {blocks}"))
    done = subprocess.run(
        [_program(), "-t", "-p", str(folder), "-c", str(configuration)],
        capture_output=True,
        text=True,
    )
    assert "syntax is ok" in done.stderr, done.stderr


def _program() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, "These tests need the program nginx: apt-get install nginx."
    return found


def _in_server(folder: Path, blocks: str) -> str:
    # Started by root, its workers would be another user, who cannot enter the tests' folders.
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
        {user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
        events {{}}
        http {{
          access_log off; absolute_redirect off;
          client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
          fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
          scgi_temp_path {folder}/scgi;
          server {{ {blocks} }}
        }}"""


class Nginx:
    """nginx on a free port of this machine, as a context manager."""

    def __init__(self, folder: Path, locations: Sequence[Location]) -> None:
        # nginx takes over the socket, so that no other process takes its port meanwhile.
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        blocks = "\n".join(location.block for location in locations)
        configuration = folder / "nginx.conf"
        configuration.write_text(_in_server(folder, f"listen {host}:{port}; {blocks}"))
        self._process = subprocess.Popen(
            [_program(), "-p", str(folder), "-c", str(configuration)],
            env=os.environ | {"NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.close()
        self.url = f"http://{host}:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=_PATIENCE_SECONDS)
