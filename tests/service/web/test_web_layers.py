"""The plot of the layers: where in the model the decision forms."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.support.browser import Visitor, accessible
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

PROMPTS = ["a rainbow", "a balloon", "a helicopter"]


def opened(visitor: Visitor) -> tuple[Page, list[dict[str, Any]]]:
    """Open the panel of an answer by keyboard; return the reports of the targets too."""
    page = visitor.page
    with page.expect_response("**/explain") as response:
        page.locator("#layers-report > summary").press("Enter")
    targets = response.value.json()["images"][0]["targets"]
    expect(page.locator(".plot")).to_be_visible()
    return page, [target["layers_report"] for target in targets]


def legend(page: Page) -> Locator:
    return page.locator(".legend li")


def test_the_plot_has_a_line_for_each_target_in_the_colour_of_its_chip(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    page, reports = opened(visitor)
    lines = page.locator(".plot-line")
    expect(lines).to_have_count(3)
    last = [f"{report['similarities'][-1]:.2f}" for report in reports]
    expect(legend(page)).to_have_text([f"{a}{b}" for a, b in zip(PROMPTS, last, strict=True)])
    colour = "(element, name) => getComputedStyle(element)[name]"
    drawn = [line.evaluate(colour, "stroke") for line in page.locator(".plot-path").all()]
    chips = [dot.evaluate(colour, "backgroundColor") for dot in page.locator(".chip .dot").all()]
    cards = [dot.evaluate(colour, "backgroundColor") for dot in page.locator(".card .dot").all()]
    assert drawn == chips == cards
    assert len(set(drawn)) == 3
    # Lines are told apart by their marks too.
    marks = [mark.get_attribute("d") for mark in page.locator(".plot-mark path").all()]
    assert len(set(marks)) == 3
    expect(page.locator(".plot")).to_have_attribute(
        "aria-label", re.compile("Line plot: similarity after each block, for a rainbow, a balloon")
    )
    accessible(page)


def test_the_numbers_of_every_block_are_read_by_keyboard_and_in_a_table(visitor: Visitor) -> None:
    visitor.arrive()
    visitor.explain()
    page, reports = opened(visitor)
    slider = page.get_by_role("slider", name="Read at")
    slider.focus()
    page.keyboard.press("Home")
    first = [f"{report['similarities'][0]:.2f}" for report in reports]
    expect(legend(page).locator("strong")).to_have_text(first)
    expect(slider).to_have_attribute(
        "aria-valuetext", re.compile(f"^Block 1: a rainbow {first[0]}")
    )
    page.locator(".layers summary").press("Enter")
    table = page.get_by_role("region", name="Similarity after each block")
    expect(table.get_by_role("columnheader")).to_have_text(["Block", *PROMPTS])
    expect(table.get_by_role("row")).to_have_count(10)
    expect(table.get_by_role("cell").first).to_have_text(first[0])
    accessible(page)


def test_places_are_shown_and_the_leader_is_told_in_words(visitor: Visitor) -> None:
    visitor.arrive()
    visitor.explain()
    page, reports = opened(visitor)
    ranks = [report["ranks"] for report in reports]
    (leader,) = (place for place, each in enumerate(ranks) if each[-1] == 1)
    since = max(block for block, rank in enumerate(ranks[leader], 2) if rank != 1)
    expect(page.locator(".layers figcaption")).to_contain_text(
        f"The most similar in the end is {PROMPTS[leader]}. It leads from block {since} of 9 on."
    )
    page.get_by_label("Show", exact=True).select_option("rank")
    ordinals = {1: "1st", 2: "2nd", 3: "3rd"}
    expect(legend(page).locator("strong")).to_have_text([ordinals[each[-1]] for each in ranks])


def test_textspan_adds_direct_effects_and_their_sum(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    page.locator("#method").select_option("textspan")
    visitor.explain()
    page, reports = opened(visitor)
    sums = [report["direct_effects"]["sum"] for report in reports]
    expect(page.locator(".layers figcaption")).to_contain_text(
        f"add up to {sums[0]:.3f} for a rainbow"
    )
    expect(page.locator(".layers figcaption")).to_contain_text("but for rounding")
    page.get_by_label("Show", exact=True).select_option("effect")
    last = [f"{report['direct_effects']['blocks'][-1]:.3f}" for report in reports]
    expect(legend(page).locator("strong")).to_have_text(last)
    accessible(page)


def test_a_new_answer_is_reported_while_the_panel_is_open(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    opened(visitor)
    page.locator("#prompt").fill("a cat,")
    visitor.explain()
    expect(page.locator(".plot-line")).to_have_count(4)
    page.locator("#layers-report > summary").press("Enter")
    for name in ("a rainbow", "a balloon", "a helicopter"):
        page.get_by_role("button", name=f"Remove {name}").click()
    visitor.explain()
    page, _ = opened(visitor)
    expect(page.locator(".plot-line")).to_have_count(1)
    # One target has no place among others.
    expect(page.get_by_label("Show", exact=True).locator("option")).to_have_count(1)
    expect(page.locator(".layers figcaption")).to_contain_text("The similarity of a cat is highest")


def test_the_plot_is_accessible_on_a_phone_in_the_dark(browser: Browser, server: Server) -> None:
    phone = {"width": 390, "height": 844}
    visitor = Visitor(browser, server.url, viewport=phone, color_scheme="dark", has_touch=True)
    visitor.arrive()
    visitor.explain()
    page, reports = opened(visitor)
    page.locator(".layers summary").press("Enter")
    accessible(page)
    # A finger on the plot reads the block below it.
    plot = page.locator(".plot")
    plot.scroll_into_view_if_needed()
    plot.tap(position={"x": 48, "y": 100})
    first = [f"{report['similarities'][0]:.2f}" for report in reports]
    expect(legend(page).locator("strong")).to_have_text(first)
    assert visitor.complaints == []
    visitor.leave()


def test_many_targets_are_plotted_in_part_and_all_in_the_table(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("#prompt").fill(",".join(f"thing {index}" for index in range(9)) + ",")
    visitor.explain()
    page, reports = opened(visitor)
    assert len(reports) == 12
    expect(page.locator(".plot-line")).to_have_count(8)
    expect(page.locator(".layers")).to_contain_text("The 8 most similar of 12 are shown")
    page.locator(".layers summary").press("Enter")
    expect(page.locator(".layers th[scope=col]")).to_have_count(13)
    accessible(page)


def test_one_report_serves_two_settings_of_one_model(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    page.locator("#compare").check()
    visitor.explain()
    opened(visitor)
    expect(page.locator(".layers")).to_have_count(1)


def test_a_refusal_is_told_in_the_panel_and_opening_it_asks_again(
    browser: Browser, server: Server
) -> None:
    visitor = Visitor(browser, server.url)
    page = visitor.arrive()
    visitor.explain()

    def refuse(route: Route) -> None:
        problem = {"title": "The queue is full", "detail": "Try again soon.", "status": 429}
        route.fulfill(status=429, content_type="application/problem+json", body=json.dumps(problem))

    page.route("**/explain", refuse)
    summary = page.locator("#layers-report > summary")
    summary.click()
    expect(page.locator("#layers-status")).to_have_text("The queue is full. Try again soon.")
    expect(page.locator(".card")).to_have_count(3)
    page.unroute("**/explain")
    summary.click()
    summary.click()
    expect(page.locator(".plot")).to_be_visible()
    expect(page.locator("#layers-status")).to_be_empty()
    visitor.leave()
