"""The words of prompts on the page: asked for in the options, shown below each heatmap."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.browser import Visitor

pytestmark = pytest.mark.slow


def test_each_word_is_shown_if_the_person_asks(page_of_visitor: tuple[Visitor, Page]) -> None:
    visitor, page = page_of_visitor
    visitor.explain()
    expect(page.locator(".contributions")).to_have_count(0)
    page.locator("summary", has_text="Options").click()
    page.get_by_label("Show the contribution of each word").check()
    with page.expect_response("**/explain") as response:
        visitor.explain()
    targets = response.value.json()["images"][0]["targets"]
    lists = page.get_by_role("list", name="Contribution of each word")
    expect(lists).to_have_count(len(targets))
    # The cards may be sorted by similarity.
    shown = {
        tuple(text.split()[0] for text in each.locator("li").all_inner_texts())
        for each in lists.all()
    }
    assert shown == {
        tuple(word["text"] for word in target["words"][0]["words"]) for target in targets
    }
    assert Axe().run(page).violations_count == 0
