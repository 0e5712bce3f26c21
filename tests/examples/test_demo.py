"""What a newcomer runs first: the demo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.support.own_models import own_weights, write_own_folder
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

# Where each sticker of the example picture is: left, top, right, bottom in its pixels.
STICKERS = {
    "a cat": (31, 30, 262, 269),
    "a pizza": (492, 39, 639, 223),
    "a bicycle": (221, 277, 425, 427),
    "a rocket": (505, 282, 695, 446),
}


def run(arguments: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "examples/demo.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    finished = run(["--output", str(folder)])
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


def test_the_demo_writes_an_overlay_of_the_picture_s_size_for_every_prompt(
    demo: tuple[Path, str],
) -> None:
    folder, _ = demo
    original = Image.open(ROOT / "examples" / "stickers.png")
    for prompt in STICKERS:
        overlay = Image.open(folder / f"{prompt.replace(' ', '-')}.jpg")
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


def test_the_demo_explains_a_photograph_with_another_model(tmp_path: Path) -> None:
    folder = write_own_folder(tmp_path / "own", own_weights())
    prompts = "a rocket, a rocket!, ?"
    output = ["--output", str(tmp_path / "demo"), "--prompts", prompts]
    finished = run(["--model", f"local-dir:{folder}", *output])
    assert finished.returncode == 0, finished.stderr
    overlays = {path.name for path in (tmp_path / "demo").glob("*.jpg")}
    assert overlays == {"a-rocket.jpg", "2-a-rocket.jpg", "prompt.jpg"}
    overlay = Image.open(tmp_path / "demo" / "a-rocket.jpg")
    photograph = ImageOps.exif_transpose(Image.open(ROOT / "examples" / "astronaut.jpg"))
    assert overlay.size == photograph.size
    assert "by own;" in finished.stdout


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("ViT-B-16/laion2b_s34b_b88k", "out of reach (HF_HUB_OFFLINE is set)"),
        ("ViT-B-16/no_such_tag", "laion2b_s34b_b88k"),
    ],
)
def test_the_demo_says_in_one_line_what_to_do_where_weights_cannot_be_had(
    model: str, says: str, tmp_path: Path
) -> None:
    finished = run(
        ["--model", model, "--output", str(tmp_path)],
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=str(tmp_path / "cache"),
    )
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert says in line
