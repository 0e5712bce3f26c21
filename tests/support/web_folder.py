"""A folder on a web server of the loopback interface."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from tests.support.http_servers import http_server


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class _Untold(_Handler):
    def send_header(self, keyword: str, value: str) -> None:
        """Send a header, unless it tells when a file has changed."""
        if keyword != "Last-Modified":
            super().send_header(keyword, value)


@contextmanager
def web_folder(folder: Path, *, tells_times: bool) -> Iterator[str]:
    """Serve a folder, and yield its URL.

    Args:
        folder: the folder.
        tells_times: whether the server tells when files have changed; it never tells a hash.
    """
    handler = functools.partial(_Handler if tells_times else _Untold, directory=str(folder))
    with http_server(handler) as address:
        yield f"{address}/"
