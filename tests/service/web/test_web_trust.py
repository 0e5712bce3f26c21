"""The test of heatmaps on the page: asked for in the options, told in words below each one."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.browser import Visitor

pytestmark = pytest.mark.slow

SENTENCES = [
    ({"warmest": 0.08, "random": 0.02}, "lowers the similarity 4 times as much as a random fifth."),
    ({"warmest": 0.01, "random": 0.04}, "similarity only 0.25 times as much as a random fifth."),
    ({"warmest": 0.2, "random": -0.1}, "by 0.2; a random fifth does not lower it."),
    ({"warmest": -0.05, "random": 0.1}, "raises the similarity by 0.05: the map does not show"),
    ({"warmest": 0.00001, "random": 0.1}, "hardly changes the similarity."),
]


def test_each_heatmap_is_tested_if_the_person_asks(page_of_visitor: tuple[Visitor, Page]) -> None:
    visitor, page = page_of_visitor
    visitor.explain()
    expect(page.locator(".card .trust")).to_have_count(0)
    page.locator("summary", has_text="Options").click()
    page.get_by_label("Test each heatmap").check()
    with page.expect_response("**/explain") as response:
        visitor.explain()
    targets = response.value.json()["images"][0]["targets"]
    assert [target["trust"]["level"] for target in targets] == ["quick"] * len(targets)
    expect(page.locator(".card .trust")).to_have_count(len(targets))
    expect(page.locator(".card .trust").first).to_contain_text("Removing the warmest fifth")
    assert Axe().run(page).violations_count == 0


def test_numbers_become_a_sentence(page_of_visitor: tuple[Visitor, Page]) -> None:
    _, page = page_of_visitor
    for removed, sentence in SENTENCES:
        told = page.evaluate(
            """async (removed) => {
                const { trustInWords } = await import(new URL("trust.js",
                    document.querySelector("script[type=module]").src));
                return trustInWords({ perturbation: { score: "similarity", ...removed } });
            }""",
            removed,
        )
        assert sentence in told
