"""A heatmap for each attention head: offered where a method has them, named by its number."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import Visitor, accessible
from tests.support.running_app import RunningApp
from tests.support.tiny_model import TINY, save_model

pytestmark = pytest.mark.slow

HEADS = 16
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An application that serves a model with as many heads as a large one."""
    config = copy.deepcopy(TINY)
    config["vision_cfg"]["head_width"] = TINY["vision_cfg"]["width"] // HEADS
    with RunningApp(save_model(tmp_path_factory.mktemp("headed"), "headed", config)) as started:
        yield started


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def visitor(
    request: pytest.FixtureRequest, browser: Browser, headed: RunningApp
) -> Iterator[Visitor]:
    """A visitor on a phone or at a desk; checks afterwards that no error occurred."""
    dark = "dark" if request.param is DESKTOP else "light"
    visiting = Visitor(
        browser,
        f"http://{headed.host}:{headed.port}",
        viewport=request.param,
        color_scheme=dark,
        reduced_motion="reduce",
    )
    yield visiting
    visiting.leave()
    assert visiting.complaints == []
    assert visiting.strangers == []


def choice(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Heads")


def choose_each(page: Page) -> None:
    """Ask for a heatmap of each head, of the first prompt of the example alone."""
    page.locator("summary", has_text="Options").click()
    page.locator("#method").select_option(label="Raw attention")
    choice(page).select_option(label="Each")
    for prompt in ("a balloon", "a helicopter"):
        page.get_by_role("button", name=f"Remove {prompt}").click()


def titles(page: Page) -> Locator:
    return page.locator(".card h3")


def test_heads_are_offered_only_while_the_method_has_them(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    expect(choice(page)).to_be_hidden()
    page.locator("#method").select_option(label="Raw attention")
    expect(choice(page)).to_be_visible()
    expect(choice(page).locator("option")).to_have_text(["Mean of all", "Each"])
    choice(page).select_option(label="Each")
    accessible(page)
    # A choice that is no longer seen holds no longer.
    page.locator("#method").select_option(label="Attention rollout")
    expect(choice(page)).to_be_hidden()
    page.locator("#method").select_option(label="Raw attention")
    expect(choice(page)).to_have_value("")
    choice(page).select_option(label="Each")
    page.locator("#compare").check()
    expect(choice(page)).to_be_hidden()
    expect(page.locator("#heads-about")).to_have_text(
        "Compared heatmaps are the mean of all heads."
    )
    with page.expect_response("**/explain") as response:
        visitor.explain()
    targets = response.value.json()["images"][0]["targets"]
    assert [target["head"] for target in targets] == [None] * 3
    page.locator("#compare").uncheck()
    expect(choice(page)).to_have_value("")


def test_each_head_has_a_card_with_its_number(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_each(page)
    with page.expect_response("**/explain") as response:
        visitor.explain()
    answer = response.value.json()
    assert [target["head"] for target in answer["images"][0]["targets"]] == list(range(HEADS))
    expect(page.locator("#news")).to_have_text(f"Done: {HEADS} heatmaps.")
    named = [f"a rainbow, head {head}" for head in range(HEADS)]
    expect(titles(page)).to_have_text(named[:6])
    expect(page.locator("#arrange")).to_be_hidden()
    accessible(page)
    page.locator("#fold").click()
    expect(titles(page)).to_have_text(named)
    for place, name in enumerate(named):
        card = page.locator(".card").nth(place)
        expect(card.get_by_role("img")).to_have_attribute(
            "aria-label", re.compile(f"^Heatmap of {name}: it peaks at")
        )
        expect(card.get_by_role("button")).to_have_accessible_name(f"Large view of {name}")
    drawn = [canvas.evaluate("c => c.toDataURL()") for canvas in page.locator(".card canvas").all()]
    assert len(set(drawn)) == HEADS
    # All of them are of the one prompt.
    colour = "dot => getComputedStyle(dot).backgroundColor"
    dots = [dot.evaluate(colour) for dot in page.locator(".card .dot, .chip .dot").all()]
    assert len(dots) == HEADS + 1
    assert len(set(dots)) == 1
    expect(page.locator("#meaning")).to_contain_text("Each heatmap is that of one attention head")
    expect(page.locator("#untargeted")).to_be_hidden()
    accessible(page)


def test_a_head_is_read_and_enlarged_by_keyboard(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_each(page)
    visitor.explain()
    reader = page.locator(".card .reader").nth(3)
    expect(reader).to_have_accessible_name(re.compile("^Read the heatmap of a rainbow, head 3"))
    reader.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#large-title")).to_have_text("a rainbow, head 3")
    accessible(page)
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()


def test_the_choice_is_made_by_keyboard_and_says_what_it_excludes(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("summary", has_text="Options").click()
    page.locator("#trust").check()
    page.locator("#method").select_option(label="Raw attention")
    page.locator("#method").focus()
    # The choice follows the method, after the link to its paper.
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(choice(page)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(choice(page)).to_have_value("each")
    expect(choice(page)).to_have_accessible_description(re.compile("^Takes a single prompt"))
    for name in ("Test each heatmap", "Show the contribution of each word"):
        expect(page.get_by_label(name)).to_be_disabled()
        expect(page.get_by_label(name)).not_to_be_checked()
    accessible(page)
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Test each heatmap")).to_be_enabled()
    expect(choice(page)).to_have_accessible_description("")


def test_several_prompts_are_refused_where_they_are_chosen(visitor: Visitor) -> None:
    page = visitor.arrive()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.locator("summary", has_text="Options").click()
    page.locator("#method").select_option(label="Raw attention")
    choice(page).select_option(label="Each")
    page.get_by_role("button", name="Explain", exact=True).click()
    told = page.locator("#question-problem")
    expect(told).to_have_text(
        "A heatmap for each head takes one prompt: remove the others, or choose the mean of all "
        "heads."
    )
    expect(told).to_be_in_viewport()
    expect(page.locator("#prompt")).to_be_focused()
    assert [url for url in requests if url.endswith("/explain")] == []
    choice(page).select_option(label="Mean of all")
    visitor.explain()
    expect(titles(page)).to_have_text(["a rainbow", "a balloon", "a helicopter"])
    expect(page.locator("#untargeted")).to_be_visible()


def test_the_regions_and_the_layers_of_heads_are_shown(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_each(page)
    visitor.explain()
    page.locator("#regions").check()
    with page.expect_response("**/explain") as response:
        page.locator("#threshold").press("ArrowRight")
    targets = response.value.json()["images"][0]["targets"]
    found = sum(len(target["regions"]) for target in targets)
    expect(page.locator("#news")).to_have_text(f"{found} regions above 55 %")
    # The report is about the prompt.
    page.locator("#layers-report > summary").press("Enter")
    expect(page.locator(".plot-line")).to_have_count(1)
    expect(page.locator(".legend li")).to_contain_text("a rainbow")


def test_the_heatmaps_of_heads_are_taken_away(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.arrive()
    choose_each(page)
    visitor.explain()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert len(saved["images"][0]["targets"]) == HEADS

    def copied(button: str) -> str:
        page.get_by_role("button", name=button).click()
        expect(page.locator("#taken")).to_contain_text("Copied")
        return page.locator("#snippet-text").input_value()

    assert '"heads":"each"' in copied("Copy as curl")
    script = copied("Copy as Python")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("a rainbow, head 0 ")
    assert {path.name for path in tmp_path.glob("*.jpeg")} == {
        f"a rainbow, head {head}.jpeg" for head in range(HEADS)
    }
