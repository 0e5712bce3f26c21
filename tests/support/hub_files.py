"""The model hub without a network: its cache on disk, and a small server with its answers."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.support.http_servers import http_server

_COMMIT = "a" * 40


def fill_cache(cache: Path, repository: str, files: Mapping[str, bytes]) -> Path:
    """Write files as the hub's client caches them; return the folder of the snapshot."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(_COMMIT)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


@contextmanager
def hub_server(files: Mapping[str, bytes], *, status: int | None = None) -> Iterator[str]:
    """Serve files named ``ORG/REPO/FILE`` as the hub does; yield its address.

    With a status, answer every request with it.
    """

    class Handler(BaseHTTPRequestHandler):
        def _content(self) -> bytes | None:
            repository, kind, place = self._parts()
            own = {
                name.removeprefix(f"{repository}/"): content
                for name, content in files.items()
                if name.startswith(f"{repository}/")
            }
            if kind == "resolve":
                return own.get(place)
            if not own:
                return None
            if kind == "tree":
                listed: Any = [
                    {"type": "file", "path": name, "size": len(content), "oid": _COMMIT}
                    for name, content in own.items()
                ]
            else:
                siblings = [{"rfilename": name} for name in own]
                listed = {"id": repository, "sha": _COMMIT, "siblings": siblings}
            return json.dumps(listed).encode()

        def _parts(self) -> tuple[str, str, str]:
            """Split the path into repository, kind of the request, and file."""
            path = self.path.partition("?")[0].removeprefix("/").removeprefix("api/models/")
            repository, kind, rest = re.split(r"/(resolve|revision|tree)/", f"{path}/resolve/")[:3]
            return repository, kind, rest.removesuffix("/resolve/").partition("/")[2]

        def _answer(self) -> bytes | None:
            repository, _, _ = self._parts()
            content = None if status else self._content()
            self.send_response(status or (404 if content is None else 200))
            self.send_header("X-Repo-Commit", _COMMIT)
            if content is None:
                known = any(path.startswith(f"{repository}/") for path in files)
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            return content

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            content = self._answer()
            if content is not None:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as address:
        yield address
