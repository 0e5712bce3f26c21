"""The files of the page that a person opens, kept in memory once read."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from legrad_engine.images.rendering import (
    COLORMAPS,
    DEFAULT_ALPHA,
    DEFAULT_COLORMAP,
    opacity_ramp,
    palette,
)

# Everything the page uses comes from this server; nothing on it is inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

INDEX = "index.html"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page.

    Attributes:
        content: its bytes.
        media_type: for ``Content-Type``.
        etag: for ``ETag``, with its quotes; equal exactly for equal bytes.
    """

    content: bytes
    media_type: str
    etag: str


@functools.cache
def page_files() -> Mapping[str, PageFile]:
    """Every file of the page by its path below ``service/web``."""
    contents = dict(_read(files("service") / "web"))
    contents["colormaps.json"] = _colormaps()
    return {path: _page_file(path, content) for path, content in contents.items()}


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            yield from _read(entry, f"{path}/")
        elif "." + entry.name.rpartition(".")[2] in _MEDIA_TYPES:
            yield path, entry.read_bytes()


def _page_file(path: str, content: bytes) -> PageFile:
    media_type = _MEDIA_TYPES["." + path.rpartition(".")[2]]
    return PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _colormaps() -> bytes:
    """What the page needs to draw overlays exactly as the engine does."""
    return json.dumps(
        {
            "default": DEFAULT_COLORMAP,
            "opacity": DEFAULT_ALPHA,
            "ramp": [round(float(share), 6) for share in opacity_ramp()],
            "colormaps": {name: palette(name).hex() for name in COLORMAPS},
        }
    ).encode()
