"""The large view of a heatmap: how it opens and closes, and zooms to single pixels."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Visitor, accessible
from tests.support.running_server import Server

pytestmark = pytest.mark.slow


def explained(visitor: Visitor) -> Page:
    page = visitor.arrive()
    visitor.explain()
    return page


def open_large(page: Page) -> None:
    page.get_by_role("button", name="Large view of a balloon").click()
    expect(page.get_by_role("dialog", name="a balloon")).to_be_visible()


def displayed(page: Page) -> dict[str, float]:
    """The place of the large picture and of its frame in the window."""
    return dict(
        page.evaluate(
            """() => {
                const picture = document.querySelector("#large canvas").getBoundingClientRect();
                const frame = document.querySelector("#large-stage").getBoundingClientRect();
                return { left: picture.left, top: picture.top, width: picture.width,
                    height: picture.height, frameWidth: frame.width, frameHeight: frame.height };
            }"""
        )
    )


def _press_picture(page: Page) -> None:
    page.locator(".card .reader").nth(1).click()


def _press_enter(page: Page) -> None:
    page.locator(".card .reader").nth(1).press("Enter")


def _press_button(page: Page) -> None:
    page.locator(".card .enlarge").nth(1).press("Space")


@pytest.mark.parametrize(
    ("opened", "returns"),
    [(_press_picture, ".reader"), (_press_enter, ".reader"), (_press_button, ".enlarge")],
)
def test_escape_closes_and_the_focus_returns(
    visitor: Visitor, opened: Callable[[Page], None], returns: str
) -> None:
    page = explained(visitor)
    opened(page)
    expect(page.get_by_role("dialog", name="a balloon")).to_be_visible()
    expect(page.locator("#large .reader")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    expect(page.locator(f".card {returns}").nth(1)).to_be_focused()


def test_the_close_button_closes(visitor: Visitor) -> None:
    page = explained(visitor)
    open_large(page)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#large")).to_be_hidden()
    expect(page.locator(".card .enlarge").nth(1)).to_be_focused()


def test_the_whole_picture_fits_and_follows_the_window(visitor: Visitor) -> None:
    page = explained(visitor)
    open_large(page)
    for width, height in ((1280, 900), (700, 500)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(
            """() => {
                const picture = document.querySelector("#large canvas").getBoundingClientRect();
                const stage = document.querySelector("#large-stage");
                return Math.abs(Math.max(picture.width - stage.clientWidth,
                    picture.height - stage.clientHeight)) < 1.5;
            }"""
        )
    expect(page.get_by_role("button", name="Zoom out")).to_be_disabled()


def test_keys_zoom_to_single_pixels_and_read_them(visitor: Visitor) -> None:
    page = explained(visitor)
    open_large(page)
    for _ in range(8):
        page.keyboard.press("+")
    expect(page.locator("#zoom-value")).to_have_text("1600 %")
    expect(page.get_by_role("button", name="Zoom in")).to_be_disabled()
    assert displayed(page)["width"] == 16 * 720
    canvas = page.locator("#large canvas")
    assert canvas.evaluate("canvas => getComputedStyle(canvas).imageRendering") == "pixelated"
    page.keyboard.press("Home")
    point = page.locator("#large-point")
    expect(point).to_have_text(re.compile(r"^(0\.9\d|1\.00) at \d+, \d+$"))
    _, _, before = point.inner_text().partition(" at ")
    across, down = (int(number) for number in before.split(", "))
    page.keyboard.press("ArrowRight")
    expect(point).to_have_text(re.compile(rf"at {across + 1}, {down}$"))
    expect(page.locator("#large .probe-value")).to_be_in_viewport()
    # Screen readers hear nothing of the page behind the dialog.
    expect(page.locator("#large .news")).to_have_text(re.compile(r"^\d\.\d\d at the "))
    page.keyboard.press("-")
    expect(page.locator("#zoom-value")).to_have_text("800 %")
    page.keyboard.press("0")
    expect(page.get_by_role("button", name="Zoom out")).to_be_disabled()
    sizes = displayed(page)
    assert sizes["width"] <= sizes["frameWidth"]
    assert sizes["height"] <= sizes["frameHeight"]


def test_the_wheel_zooms_at_the_pointer_and_the_mouse_drags(visitor: Visitor) -> None:
    page = explained(visitor)
    open_large(page)
    place = (800, 500)
    page.mouse.move(*place)
    point = page.locator("#large-point")
    before = point.inner_text()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    expect(page.locator("#zoom-value")).to_have_text("200 %")
    page.mouse.wheel(0, -100)
    expect(page.locator("#zoom-value")).to_have_text("400 %")
    page.keyboard.up("Control")
    sizes = displayed(page)
    _, _, coordinates = before.partition(" at ")
    across, down = (int(number) for number in coordinates.split(", "))
    assert abs((place[0] - sizes["left"]) / 4 - across) <= 2
    assert abs((place[1] - sizes["top"]) / 4 - down) <= 2
    page.mouse.down()
    page.mouse.move(place[0] + 60, place[1] + 30, steps=3)
    page.mouse.up()
    moved = displayed(page)
    assert moved["left"] - sizes["left"] == pytest.approx(60, abs=2)
    assert moved["top"] - sizes["top"] == pytest.approx(30, abs=2)


def test_two_settings_are_compared_large(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    page.locator("#compare").check()
    visitor.explain()
    open_large(page)
    slider = page.locator("#large").get_by_role("slider", name="Divider")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#large .side").first).to_be_hidden()
    page.keyboard.press("+")
    page.keyboard.press("+")
    expect(page.locator("#large .side").last).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator(".card .divider").first).to_have_value("0")


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_large_view_passes_axe(
    browser: Browser, server: Server, scheme: str, width: int
) -> None:
    visitor = Visitor(
        browser, server.url, color_scheme=scheme, viewport={"width": width, "height": 844}
    )
    page = explained(visitor)
    open_large(page)
    accessible(page)
    expect(page.get_by_role("button", name="Close")).to_be_in_viewport()
    page.get_by_role("button", name="Zoom in").click()
    page.keyboard.press("Shift+Tab")
    accessible(page)
    assert visitor.complaints == []
    visitor.leave()
