"""The model hub without a network: its cache on disk, and a small server with its answers."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
        def _answer(self) -> bytes | None:
            repository, _, name = self.path.removeprefix("/").partition("/resolve/main/")
            content = None if status else files.get(f"{repository}/{name}")
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
