"""The files of the web page, kept in memory once read."""

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

# The page loads everything from this server, and has no inline scripts or styles.
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
        content: the bytes.
        media_type: value of ``Content-Type``.
        etag: value of ``ETag``, quotes included; a hash of the content.
    """

    content: bytes
    media_type: str
    etag: str


@functools.cache
def page_files() -> Mapping[str, PageFile]:
    """Return all files of the page, by path below ``service/web``."""
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
    """Return the engine's colormaps and opacities as JSON, for equal overlays on the page."""
    return json.dumps(
        {
            "default": DEFAULT_COLORMAP,
            "opacity": DEFAULT_ALPHA,
            "ramp": [round(float(share), 6) for share in opacity_ramp()],
            "colormaps": {name: palette(name).hex() for name in COLORMAPS},
        }
    ).encode()
