"""Pictures of a folder are found by content, and all other files are named."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from service.bulk.discovery import find_pictures
from service.cli import app
from tests.support.pictures import encoded, heic, picture
from tests.support.tiff_files import SHORT, tiff

PICTURES = {
    "a.JFIF": encoded(kind="JPEG"),
    "b.jpe": encoded(kind="JPEG"),
    "c.heic": heic(picture()),
    "d.HIF": heic(picture()),
    "download": encoded(kind="WEBP"),
    "e.pgm": encoded(picture().convert("L"), "PPM"),
    "f.bin": encoded(kind="BMP"),
    "photo.jpg.tmp": encoded(kind="JPEG"),
    "g.img": heic(picture()),
    "h.dat": encoded(kind="AVIF"),
    "wrong.png": encoded(kind="GIF"),
    "broken.png": b"no picture",
    "sub/i.tif": encoded(kind="TIFF"),
}
OTHERS = {
    "notes.txt": b"BMW, or P1 and P6: no pictures\n",
    "Py": b"Python 3\n",
    "P5 to do.md": b"P5 to do\n",
    "manual.pdf": b"%PDF-1.7",
    "drawing.svg": b"<svg/>",
    "empty": b"",
    "icon.ico": encoded(Image.new("RGBA", (32, 32)), "ICO"),
    "raw.DNG": tiff(2, 1, bytes(2), {258: (SHORT, [8]), 262: (SHORT, [1])}),
    "sub/table.csv": b"a;b\n",
}
HIDDEN = {".hidden.png": encoded(), ".cache/j.png": encoded(), "out/k.png": encoded()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name, content in (PICTURES | OTHERS | HIDDEN).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_content_decides_and_nothing_is_lost(folder: Path) -> None:
    found = find_pictures(folder, folder / "out")
    assert {str(path.relative_to(folder)) for path in found.pictures} == set(PICTURES)
    assert {str(path.relative_to(folder)) for path in found.skipped} == set(OTHERS)
    assert list(found.pictures) == sorted(found.pictures)


def test_a_single_picture_is_taken_whatever_it_is(folder: Path) -> None:
    alone = folder / "notes.txt"
    assert find_pictures(alone, folder / "out") == ([alone], [])


def test_a_run_counts_and_names_what_it_skips(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    command = ["explain", str(folder), "a cat", "-o", str(folder / "out"), "--model", tiny_model]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "12 explained, 1 failed, 9 skipped" in done.stdout
    assert "Skipped 9 files that are no pictures:" in done.stderr
    for name in OTHERS:
        assert name in done.stderr
    assert "broken.png: The data is not an image" in done.stderr


def test_a_folder_without_pictures_names_what_is_there(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.txt").write_text("no picture")
    done = CliRunner().invoke(app, ["explain", str(tmp_path), "a cat"])
    assert done.exit_code == 2
    assert "There is no picture in" in done.stderr
    assert "Skipped 25 files that are no pictures: 00.txt, 01.txt" in done.stderr
    assert "19.txt and 5 more." in done.stderr
