"""What a newcomer runs first: the demo."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

# Where each sticker of the example picture is: left, top, right, bottom in its pixels.
STICKERS = {
    "a cat": (40, 35, 250, 262),
    "a pizza": (482, 30, 645, 228),
    "a bicycle": (196, 258, 420, 430),
    "a rocket": (513, 260, 675, 465),
}


def run(arguments: list[str], folder: Path = ROOT) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(["examples/demo.py", "--output", str(folder)])


def test_the_demo_writes_an_overlay_of_the_picture_s_size_for_every_prompt(
    demo: tuple[Path, str],
) -> None:
    folder, _ = demo
    original = Image.open(ROOT / "examples" / "stickers.png")
    for prompt in STICKERS:
        overlay = Image.open(folder / f"{prompt.replace(' ', '-')}.png")
        assert overlay.size == original.size
    assert Image.open(folder / "overview.png").width > original.width


@pytest.mark.parametrize("prompt", STICKERS)
def test_the_demo_s_heatmaps_peak_on_what_the_prompt_names(
    demo: tuple[Path, str], prompt: str
) -> None:
    row = next(line for line in demo[1].splitlines() if f" {prompt} " in line)
    x, y = (int(number) for number in re.findall(r"(\d+), (\d+)", row)[0])
    left, top, right, bottom = STICKERS[prompt]
    assert left <= x < right
    assert top <= y < bottom


def test_the_demo_tells_what_is_in_the_picture_from_what_is_not(demo: tuple[Path, str]) -> None:
    similarity = {}
    for line in demo[1].splitlines():
        if found := re.search(r"(a \w+) +\S +(-?[\d.]+)", line):
            similarity[found[1]] = float(found[2])
    assert min(similarity[prompt] for prompt in STICKERS) > similarity["a dog"]
