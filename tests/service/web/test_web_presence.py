"""The presence of things on the page: beside each heatmap, for models with a calibration."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Visitor
from tests.support.paths import EXAMPLES

pytestmark = pytest.mark.slow

FACT = "Chance it is there"


def test_the_chance_that_a_thing_is_there_stands_beside_its_heatmap(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("#file").set_input_files(EXAMPLES / "stickers.png")
    expect(page.locator("#picture-name")).to_contain_text("stickers.png, 720")
    page.locator("#prompt").fill("a pizza,a bicycle,a balloon,")
    with page.expect_response("**/explain") as response:
        visitor.explain()
    targets = response.value.json()["images"][0]["targets"]
    presence = {target["prompt"]: target["presence"] for target in targets}
    assert presence["a balloon"] < 0.01 < 0.5 < presence["a bicycle"] < 0.99 < presence["a pizza"]
    for prompt, words in (
        ("a pizza", "over 99 %"),
        ("a bicycle", f"{round(100 * presence['a bicycle'])} %"),
        ("a balloon", "under 1 %"),
    ):
        card = page.locator(".card", has=page.get_by_role("heading", name=prompt))
        fact = card.locator("dl div", has_text=FACT)
        expect(fact.locator("dd")).to_have_text(words)
    expect(
        page.get_by_text("The chance that it is there is made of the similarity")
    ).to_be_visible()


def test_a_model_without_a_calibration_says_nothing_about_it(
    page_of_visitor: tuple[Visitor, Page],
) -> None:
    visitor, page = page_of_visitor
    visitor.explain()
    expect(page.locator(".card").first).to_contain_text("Similarity")
    expect(page.get_by_text(FACT)).to_have_count(0)
    expect(page.get_by_text("The chance that it is there")).to_have_count(0)
