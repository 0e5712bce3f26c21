"""Two settings compared on one picture, with a divider between their heatmaps."""

import base64
import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import Visitor, accessible
from tests.support.running_app import RunningApp

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def twins(tiny_model: str) -> Iterator[RunningApp]:
    """An application that serves one model under two names."""
    with RunningApp(f"left={tiny_model},right={tiny_model}") as started:
        yield started


def pixels(canvas: Locator) -> NDArray[np.int_]:
    url = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    drawn = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return np.asarray(drawn.convert("RGB")).astype(int)


def compare(visitor: Visitor, **second: str) -> Page:
    """Explain with two settings; ``second`` has the second one's choices, by their labels."""
    page = visitor.page
    page.locator("summary", has_text="Options").click()
    page.locator("#compare").check()
    page.locator("#layers-second").select_option(index=0)
    for name, label in second.items():
        page.locator(f"#{name}-second").select_option(label=label)
    visitor.explain()
    return page


def divider(page: Page, place: int = 0) -> Locator:
    return page.locator(".cards").get_by_role("slider", name="Divider").nth(place)


def test_each_side_of_the_divider_shows_its_own_heatmap(visitor: Visitor) -> None:
    visitor.arrive()
    page = compare(visitor, method="Attention rollout")
    canvases = page.locator(".card canvas")
    expect(canvases).to_have_count(3)
    on_one = pixels(canvases.first)
    half = on_one.shape[1] // 2
    page.locator("#layout").select_option("beside")
    expect(canvases).to_have_count(6)
    first, second = pixels(canvases.nth(0)), pixels(canvases.nth(1))
    # The ring is as wide on the screen in cards of every width.
    apart = 40
    assert (np.abs(on_one - first)[:, : half - 1].max(-1) > apart).mean() < 0.01
    assert (np.abs(on_one - second)[:, half + 1 :].max(-1) > apart).mean() < 0.01
    assert (np.abs(first - second).max(-1) > apart).mean() > 0.05


@pytest.mark.parametrize(
    ("method", "usual", "count"),
    [("Grad-ECLIP", "Last block (only)", 1), ("CheferCAM", "Last block (usual)", 7)],
)
def test_another_method_starts_from_its_usual_blocks_and_offers_those_that_it_takes(
    visitor: Visitor, method: str, usual: str, count: int
) -> None:
    visitor.arrive()
    page = visitor.page
    page.locator("summary", has_text="Options").click()
    page.locator("#compare").check()
    expect(page.locator("#layers-second")).to_have_value("all")
    page.locator("#method-second").select_option(label=method)
    expect(page.locator("#layers-second")).to_have_value("")
    expect(page.locator("#layers-second option")).to_have_count(count)
    expect(page.locator("#layers-second option").first).to_have_text(usual)
    visitor.explain()
    expect(page.locator(".card canvas")).to_have_count(3)


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ({"method": "Attention rollout"}, ["LeGrad", "Attention rollout"]),
        ({"layers": "Last block"}, ["last 2 blocks", "last block"]),
        (
            {"method": "Raw attention", "layers": "Last 3 blocks"},
            ["LeGrad, last 2 blocks", "Raw attention, last 3 blocks"],
        ),
    ],
)
def test_the_sides_are_named_by_their_difference(
    visitor: Visitor, second: dict[str, str], names: list[str]
) -> None:
    visitor.arrive()
    page = compare(visitor, **second)
    card = page.locator(".card").first
    expect(card.locator(".side")).to_have_text(names)
    expect(card.get_by_role("columnheader")).to_have_text(names)
    expect(divider(page)).to_have_attribute(
        "aria-valuetext", f"{names[0]} on the left 50 %, {names[1]} on the right 50 %"
    )


def test_two_models_are_compared(browser: Browser, twins: RunningApp) -> None:
    visitor = Visitor(browser, f"http://{twins.host}:{twins.port}")
    visitor.arrive()
    page = compare(visitor)
    expect(page.locator(".card").first.locator(".side")).to_have_text(["left", "right"])
    assert visitor.complaints == []
    visitor.leave()


def test_the_divider_is_moved_by_keys_in_all_pictures(visitor: Visitor) -> None:
    visitor.arrive()
    page = compare(visitor, method="Attention rollout")
    canvas = page.locator(".card canvas").nth(1)
    before = pixels(canvas)
    slider = divider(page)
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value("40")
    expect(divider(page, 1)).to_have_value("40")
    changed = np.flatnonzero((pixels(canvas) != before).any((0, 2)))
    width = before.shape[1]
    assert 0.4 * width - 1 <= changed.min() < changed.max() <= 0.5 * width + 1
    page.keyboard.press("End")
    expect(page.locator(".card").first.locator(".side").last).to_be_hidden()
    expect(page.locator(".card").first.locator(".side").first).to_be_visible()


def test_the_divider_is_dragged_and_does_not_open_the_large_view(visitor: Visitor) -> None:
    visitor.arrive()
    page = compare(visitor, method="Attention rollout")
    view = page.locator(".card .view").first
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], middle, steps=4)
    page.mouse.up()
    assert 77 <= int(divider(page).input_value()) <= 83
    expect(page.locator("#large")).to_be_hidden()


def test_the_value_that_is_read_is_that_of_the_seen_side(visitor: Visitor) -> None:
    visitor.arrive()
    page = compare(visitor, method="Attention rollout")
    # At the peak of the first heatmap, in the right half of the picture.
    reader = page.locator(".card .reader").first
    reader.focus()
    page.keyboard.press("Home")
    value = page.locator(".probe-value").first
    behind = float(value.inner_text())
    spoken = re.compile(r"^LeGrad (0\.9\d|1\.00), Attention rollout 0\.\d\d at the middle right$")
    expect(page.locator("#news")).to_have_text(spoken)
    divider(page).focus()
    page.keyboard.press("End")
    page.keyboard.press("Shift+Tab")
    expect(reader).to_be_focused()
    assert float(value.inner_text()) > 0.9 > behind


def test_equal_settings_are_told_before_they_are_compared(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    page.locator("#compare").check()
    told = page.locator("#second-same")
    expect(told).to_be_empty()
    page.locator("#layers-second").select_option(index=0)
    expect(told).to_contain_text("Both settings are the same.")
    page.locator("#method-second").select_option(label="Attention rollout")
    expect(told).to_be_empty()


def test_the_methods_of_the_heatmaps_are_described_beside_them(visitor: Visitor) -> None:
    visitor.arrive()
    page = compare(visitor, method="Attention rollout")
    methods = page.locator("#methods")
    methods.locator("summary").press("Enter")
    expect(methods.get_by_role("term")).to_have_text(["LeGrad", "Attention rollout"])
    expect(methods).to_contain_text("The attention of all blocks multiplied")
    link = methods.get_by_role("link", name="arXiv 2005.00928")
    expect(link).to_have_attribute("href", "https://arxiv.org/abs/2005.00928")


def test_compared_heatmaps_are_saved_side_by_side(visitor: Visitor) -> None:
    visitor.arrive()
    page = compare(visitor, method="Attention rollout")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    sheet = Image.open(download.value.path())
    assert sheet.size == (2 * 640 + 3 * 24, 3 * (427 + 64 + 24) + 24)
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#taken")).to_have_text("Copied the first setting as curl.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_comparing_is_accessible_on_a_phone(
    browser: Browser, twins: RunningApp, scheme: str
) -> None:
    url = f"http://{twins.host}:{twins.port}"
    visitor = Visitor(browser, url, viewport=PHONE, color_scheme=scheme, has_touch=True)
    visitor.arrive()
    page = compare(visitor)
    accessible(page)
    slider = divider(page)
    slider.focus()
    accessible(page)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    # A finger that taps beside the thumb reads the picture.
    page.touchscreen.tap(box["x"] + 0.2 * box["width"], box["y"] + 0.7 * box["height"])
    expect(page.locator("#large")).to_be_visible()
    accessible(page)
    assert visitor.complaints == []
    visitor.leave()
