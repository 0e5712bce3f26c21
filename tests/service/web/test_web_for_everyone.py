"""The page by keyboard, for screen readers, in dark mode and on a phone."""

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Visitor
from tests.support.running_server import Server

pytestmark = pytest.mark.slow


def _tab_to(page: Page, selector: str) -> None:
    for _ in range(80):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"The Tab key never reaches {selector}.")


def test_everything_is_done_by_keyboard(visitor: Visitor) -> None:
    page = visitor.arrive()
    _tab_to(page, "#prompt")
    page.keyboard.type("a rocket,")
    page.keyboard.type("a star")
    page.keyboard.press("Enter")
    expect(page.locator("#chips-news")).to_have_text("Added a star.")
    page.keyboard.press("Backspace")
    page.keyboard.type("a sun")
    page.keyboard.press("Enter")
    expect(page.locator("#chips-news")).to_have_text("Changed to a sun.")
    page.keyboard.press("Delete")
    expect(page.locator("#chips-news")).to_have_text("Removed a sun.")
    chips = page.locator(".chip-text").all_text_contents()
    assert chips == ["a rainbow", "a balloon", "a helicopter", "a rocket"]
    page.keyboard.press("Enter")
    assert page.locator(".chip-text").all_text_contents() == chips[:-1]
    expect(page.locator(".chip-remove").last).to_be_focused()

    _tab_to(page, "#explain")
    page.keyboard.press("Enter")
    visitor.wait_for_result()
    expect(page.locator("#news")).to_have_text("Done: 3 heatmaps.")

    _tab_to(page, "#opacity")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#opacity-value")).to_have_text("61 %")
    _tab_to(page, "#regions")
    page.keyboard.press("Space")
    expect(page.locator(".card canvas").first).to_have_attribute(
        "aria-label", re.compile("1 region boxed")
    )
    _tab_to(page, ".card .reader")
    value = page.locator(".probe-value").first
    expect(value).to_be_visible()
    peak = float(value.inner_text())
    assert peak > 0.95
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    assert float(value.inner_text()) < peak
    expect(page.locator("#news")).to_have_text(re.compile(r"^0\.\d\d at the middle left$"))
    page.keyboard.press("Home")
    assert float(value.inner_text()) == peak
    page.keyboard.press("Escape")
    expect(value).to_be_hidden()
    _tab_to(page, "#save-json")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_an_edit_can_be_abandoned(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.get_by_role("button", name="Edit a balloon").press("Enter")
    page.keyboard.type("something else")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Edit a balloon")).to_be_focused()
    assert page.locator(".chip-text").count() == 3


def test_a_pasted_list_becomes_chips_without_repeats(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("#prompt").fill("a dog, a balloon,a tree , ")
    assert page.locator(".chip-text").all_text_contents() == [
        "a rainbow",
        "a balloon",
        "a helicopter",
        "a dog",
        "a tree",
    ]
    expect(page.locator("#prompt")).to_have_value("")


def test_focus_goes_through_the_page_once_and_is_seen(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    page.locator(".skip").focus()
    seen: list[str] = []
    for _ in range(120):
        page.keyboard.press("Tab")
        focused: dict[str, Any] = page.evaluate(
            """() => {
                const element = document.activeElement;
                const mark = element.id === "file" ? document.querySelector("label[for=file]")
                    : element.id === "prompt" ? element.parentElement : element;
                const style = getComputedStyle(mark);
                return {
                    name: element.outerHTML.slice(0, 120),
                    end: element === document.body,
                    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                };
            }"""
        )
        if focused["end"]:
            break
        assert focused["outlined"], focused["name"]
        seen.append(focused["name"])
    else:
        raise AssertionError("The Tab key never leaves the page.")
    assert 30 < len(seen) < 80


def _problems(page: Page) -> str:
    report = Axe().run(page)
    return report.generate_report() if report.violations_count else ""


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_passes_axe(browser: Browser, server: Server, scheme: str, width: int) -> None:
    visitor = Visitor(
        browser,
        server.url,
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        reduced_motion="reduce",
    )
    page = visitor.arrive()
    found: dict[str, str] = {}

    def look(state: str) -> None:
        found[state] = _problems(page)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            found[state] += f"\n{wide} pixels too wide"

    look("start")
    for summary in page.locator("summary:visible").all():
        summary.click()
    page.locator("#compare").check()
    look("options")
    visitor.explain()
    page.locator("#regions").check()
    page.get_by_role("button", name="Copy as Python").click()
    page.locator(".card .reader").first.focus()
    look("compared")
    page.get_by_role("button", name="Edit a rainbow").click()
    look("editing")
    page.keyboard.press("Escape")
    page.locator("#key").evaluate("form => { form.hidden = false; }")
    page.locator("#key-wrong").evaluate("text => { text.hidden = false; text.textContent = 'No.' }")
    look("key")
    page.locator("#key").evaluate("form => { form.hidden = true; }")
    page.route("**/explain", lambda route: None)
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator("#waiting").wait_for()
    look("waiting")
    page.get_by_role("button", name="Cancel").click()
    for chip in page.locator(".chip-remove").all()[::-1]:
        chip.click()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator("#question-problem").wait_for()
    look("no prompts")
    assert visitor.complaints == []
    page.locator("#prompt").fill("a cat")
    page.route("**/explain", lambda route: route.abort())
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator("#problem").wait_for()
    look("problem")
    visitor.leave()
    assert {state: report for state, report in found.items() if report} == {}


def test_the_page_describes_heatmaps_to_screen_readers(visitor: Visitor) -> None:
    page = visitor.arrive()
    expect(page.get_by_role("img", name="Stickers of an airplane").first).to_be_visible()
    visitor.explain()
    names = [
        canvas.get_attribute("aria-label") or "" for canvas in page.locator(".card canvas").all()
    ]
    assert [name.partition(":")[0] for name in names] == [
        "Heatmap of a rainbow",
        "Heatmap of a balloon",
        "Heatmap of a helicopter",
    ]
    assert all(re.search(r"it peaks at the [a-z ]+, \d+ of 720 pixels", name) for name in names)
