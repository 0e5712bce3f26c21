"""The page from the first click to the copied command."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from tests.support.browser import Visitor
from tests.support.paths import EXAMPLES
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

STICKERS = EXAMPLES / "stickers.png"


def _pixels(canvas: Locator) -> np.ndarray:
    url = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return np.asarray(picture.convert("RGB"))


def _set(slider: Locator, value: int) -> None:
    slider.evaluate(
        """(slider, value) => {
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
            slider.dispatchEvent(new Event("change"));
        }""",
        str(value),
    )


def test_one_click_explains(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    cards = page.locator(".card")
    assert cards.count() == 3
    expect(cards.first).to_contain_text("a rainbow")
    expect(cards.first).to_contain_text("Share among these 3")
    expect(cards.first).to_contain_text("Similarity")
    name = cards.first.get_by_role("img").get_attribute("aria-label")
    assert name is not None
    assert name.startswith("Heatmap of a rainbow: it peaks at the middle right")


def test_an_example_is_explained_by_one_click(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.get_by_role("button", name="In the meadow").click()
    visitor.wait_for_result()
    assert [text.strip() for text in page.locator(".card h3").all_text_contents()] == [
        "a sunflower",
        "a butterfly",
        "an owl",
    ]
    expect(page.locator("#picture-name")).to_have_text(re.compile("meadow.webp, 720 . 480"))


def test_the_page_draws_the_same_pictures_as_the_server(visitor: Visitor, server: Server) -> None:
    page = visitor.arrive()
    page.locator("#file").set_input_files(STICKERS)
    expect(page.locator("#picture-name")).to_contain_text("stickers.png, 720")
    page.locator("#prompt").fill("a rainbow,a balloon,a helicopter,")
    visitor.explain()
    for colormap, opacity in (("turbo", 60), ("magma", 100)):
        page.locator("#colormap").select_option(colormap)
        _set(page.locator("#opacity"), opacity)
        drawn = _pixels(page.locator(".card canvas").first).astype(int)
        answer = server.client.post(
            "/explain",
            files={"image": STICKERS.read_bytes()},
            data={
                "prompts": ["a rainbow", "a balloon", "a helicopter"],
                "output": json.dumps(
                    {"colormap": colormap, "alpha": opacity / 100, "format": "png"}
                ),
            },
        ).json()
        overlay = answer["images"][0]["targets"][0]["overlay"]
        expected = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay)))).astype(int)
        different = np.abs(drawn - expected).max(axis=-1) > 4
        # The page itself draws the ring at the peak.
        rows, columns = np.nonzero(different)
        assert different.mean() < 0.01
        assert np.ptp(rows) < 60
        assert np.ptp(columns) < 60


def test_hovering_tells_the_value(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    view = page.locator(".card .reader").first
    box = view.bounding_box()
    assert box is not None
    view.hover(position={"x": box["width"] * 0.1, "y": box["height"] * 0.9})
    low = float(page.locator(".probe-value").first.inner_text())
    view.hover(position={"x": box["width"] * 0.78, "y": box["height"] * 0.25})
    high = float(page.locator(".probe-value").first.inner_text())
    assert 0 <= low < 0.5 < high <= 1
    page.mouse.move(0, 0)
    expect(page.locator(".probe").first).to_be_hidden()


def test_regions_are_boxed_above_the_chosen_threshold(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    canvas = page.locator(".card canvas").nth(1)
    plain = _pixels(canvas)
    page.locator("#regions").check()
    assert (_pixels(canvas) != plain).any()
    expect(canvas).to_have_attribute("aria-label", re.compile(r"\d+ regions? boxed"))
    boxed = _pixels(canvas)
    with page.expect_response("**/explain"):
        _set(page.locator("#threshold"), 90)
    expect(page.locator("#news")).to_contain_text("above 90 %")
    assert (_pixels(canvas) != boxed).any()
    page.locator("#regions").uncheck()
    assert (_pixels(canvas) == plain).all()


def test_two_settings_stand_side_by_side(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    page.locator("#compare").check()
    visitor.explain()
    page.locator("#layout").select_option("beside")
    settings = page.locator(".card .setting").all_text_contents()
    assert settings == ["last 2 blocks", "all blocks"] * 3
    assert page.locator(".card h3").all_text_contents()[:2] == ["a rainbow"] * 2
    first, second = (_pixels(page.locator(".card canvas").nth(place)) for place in (0, 1))
    assert (first != second).any()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    answers = json.loads(Path(download.value.path()).read_text())
    assert [answer["layers"] for answer in answers] == [[7, 8], list(range(9))]


def test_options_reach_the_server(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    page.locator("#layers").select_option("1")
    page.locator("#size").select_option(index=1)
    page.locator("#fit").select_option("pad")
    page.locator("#normalize").select_option("shared")
    with page.expect_response("**/explain") as response:
        visitor.explain()
    answer = response.value.json()
    assert answer["layers"] == [8]
    assert answer["images"][0]["input_size"] == {"width": 210, "height": 210}


def test_a_method_is_described_where_it_is_chosen_and_reaches_the_server(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    about = page.locator("#method-about")
    expect(about).to_contain_text("gradient")
    expect(page.locator("#method")).to_have_attribute("aria-describedby", "method-about")
    page.locator("#method").select_option(label="Attention rollout")
    expect(about).to_contain_text("the same for every target")
    assert page.locator("#layers option").first.text_content() == "All 9 blocks (usual)"
    with page.expect_response("**/explain") as response:
        visitor.explain()
    answer = response.value.json()
    assert answer["images"][0]["method"]["name"] == "rollout"
    assert answer["layers"] == list(range(9))
    expect(page.locator("#untargeted")).to_contain_text("gives every prompt the same heatmap")


def test_the_picture_and_the_answer_are_taken_away(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    assert download.value.suggested_filename == "sky-heatmaps.png"
    sheet = Image.open(download.value.path())
    assert sheet.width == 3 * 640 + 4 * 24
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    answer = json.loads(Path(download.value.path()).read_text())
    assert [target["prompt"] for target in answer["images"][0]["targets"]] == [
        "a rainbow",
        "a balloon",
        "a helicopter",
    ]


@pytest.mark.parametrize("own", [False, True])
def test_copied_commands_work(visitor: Visitor, tmp_path: Path, own: bool) -> None:
    page = visitor.arrive()
    awkward = 'it\'s "a" pizza; type=text, 50 % 🍕 \\n $HOME'
    if own:
        name = 'it\'s my "picture"; 1.png'
        (tmp_path / name).write_bytes(STICKERS.read_bytes())
        page.locator("#file").set_input_files(tmp_path / name)
        expect(page.locator("#picture-name")).to_contain_text(f"{name}, 720")
        page.locator("#prompt").fill("a rainbow,a balloon,a helicopter,")
    page.get_by_role("button", name="Edit a rainbow").click()
    page.locator(".chip-field").fill(awkward)
    page.locator(".chip-field").press("Enter")
    visitor.explain()
    prompts = page.locator(".card h3").all_text_contents()
    assert prompts[0] == awkward

    def copied(button: str) -> str:
        page.get_by_role("button", name=button).click()
        expect(page.locator("#taken")).to_contain_text("Copied")
        return str(page.evaluate("navigator.clipboard.readText()"))

    subprocess.run(["bash", "-ec", copied("Copy as curl")], cwd=tmp_path, check=True, timeout=120)
    answer = json.loads((tmp_path / "answer.json").read_text())
    targets = answer["images"][0]["targets"]
    assert [target["prompt"] for target in targets] == prompts
    for target, shown in zip(targets, page.locator(".facts").all_inner_texts(), strict=True):
        assert f"{target['similarity']:.2f}" in shown

    script = copied("Copy as Python")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith(awkward)
    assert len(list(tmp_path.glob("*pizza*.jpeg"))) == 1
    assert (tmp_path / "a helicopter.jpeg").exists()


def test_a_picture_is_pasted_or_dropped(visitor: Visitor) -> None:
    page = visitor.arrive()
    content = base64.b64encode(STICKERS.read_bytes()).decode()
    for kind, name in (("paste", "pasted.png"), ("drop", "dropped.png")):
        page.evaluate(
            """([kind, name, content]) => {
                const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], name, { type: "image/png" }));
                const event = kind === "paste"
                    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                    : new DragEvent("drop", { dataTransfer: data, bubbles: true });
                document.body.dispatchEvent(event);
            }""",
            [kind, name, content],
        )
        expect(page.locator("#picture-name")).to_have_text(re.compile(f"{name}, 720 . 480"))
    page.locator("#prompt").fill("a cat")
    visitor.explain()
    assert page.locator(".card").count() == 1


def test_a_sideways_photograph_is_drawn_upright(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("#file").set_input_files(STICKERS.with_name("astronaut.jpg"))
    expect(page.locator("#picture-name")).to_have_text(re.compile("360 . 512$"))
    page.locator("#prompt").fill("an astronaut")
    visitor.explain()
    assert page.locator(".card canvas").first.evaluate("c => [c.width, c.height]") == [360, 512]
