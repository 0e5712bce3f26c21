"""Rendering: damaged drawings are left out, and what is missing is no lacking drawing."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.starter.sources import Concept, clip_art, render_sprite

pytest.importorskip("resvg_py", reason="rendering needs the optional extra 'starter'")

BODIES = {
    "cat": '<circle cx="8" cy="8" r="6" fill="red"/>',
    "dog": "<circle cx=",
    "fish": "",
}
PHOTOGRAPHS = "tux-paint-photographs"
RASTER = "fluent-emoji-3d"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "npm" / "node_modules" / "@iconify-json" / "twemoji"
    folder.mkdir(parents=True)
    icons = {name: {"body": body} for name, body in BODIES.items()}
    (folder / "icons.json").write_text(json.dumps({"icons": icons}))
    return tmp_path


def concept(name: str) -> Concept:
    return Concept(name, (), "1f431")


def photograph(cache: Path) -> tuple[Path, Concept]:
    """The place of a photograph of Tux Paint, and its concept."""
    name, [file, *_] = next(
        (name, files)
        for name, files in clip_art()[PHOTOGRAPHS].items()
        if files and files[0].endswith(".png")
    )
    path = cache / "debian" / "usr" / "share" / "tuxpaint" / "stamps" / file
    path.parent.mkdir(parents=True)
    return path, concept(name)


def encoded(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_drawing_fills_its_square(cache: Path) -> None:
    sprite = render_sprite(cache, "twemoji", concept("cat"), 64)

    assert sprite is not None
    assert (sprite.mode, sprite.size) == ("RGBA", (64, 64))
    assert sprite.getpixel((32, 32)) == (255, 0, 0, 255)
    assert sprite.getpixel((0, 0)) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["dog", "fish", "horse"], ids=["damaged", "empty", "lacking"])
def test_a_drawing_that_shows_nothing_is_left_out(cache: Path, name: str) -> None:
    assert render_sprite(cache, "twemoji", concept(name), 64) is None


def test_a_damaged_photograph_is_left_out(cache: Path) -> None:
    path, shown = photograph(cache)
    path.write_bytes(encoded())
    assert render_sprite(cache, PHOTOGRAPHS, shown, 64) is not None

    for damaged in (encoded()[:2000], b"no picture"):
        path.write_bytes(damaged)
        assert render_sprite(cache, PHOTOGRAPHS, shown, 64) is None


def test_without_a_renderer_nothing_is_rendered(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)

    with pytest.raises(ImportError):
        render_sprite(cache, "twemoji", concept("cat"), 64)


@pytest.mark.parametrize("style", ["noto", "symbola", RASTER, PHOTOGRAPHS, "open-clip-art"])
def test_missing_art_raises_an_error(cache: Path, style: str) -> None:
    name = next(iter(clip_art()[style])) if style in clip_art() else "cat"

    with pytest.raises(OSError, match=r"No such file|cannot open resource"):
        render_sprite(cache, style, concept(name), 64)
