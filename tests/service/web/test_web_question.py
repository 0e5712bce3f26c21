"""The question: the picture, prompts or classes, and answers with many of them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.support.browser import Visitor, accessible
from tests.support.own_models import write_classifier
from tests.support.paths import EXAMPLES
from tests.support.pictures import encoded, picture
from tests.support.running_app import RunningApp

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
LABELS = [f"thing {index}" for index in range(300)]
LABELS[281], LABELS[3], LABELS[4] = "tabby, tabby cat", "crane", "crane"


@pytest.fixture(scope="module")
def asked(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An application with a text model, two classifiers and a model of neither kind."""
    folder = tmp_path_factory.mktemp("models")
    references = [
        tiny_model,
        write_classifier(folder / "Named", LABELS, len(LABELS)),
        write_classifier(folder / "Nameless", None, 5),
        write_classifier(folder / "Neither", None, 0),
    ]
    with RunningApp(",".join(references)) as started:
        yield started


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def visitor(
    request: pytest.FixtureRequest, browser: Browser, asked: RunningApp
) -> Iterator[Visitor]:
    """A visitor on a phone or at a desk; checks afterwards that no error occurred."""
    dark = "dark" if request.param is DESKTOP else "light"
    url = f"http://{asked.host}:{asked.port}"
    visiting = Visitor(
        browser, url, viewport=request.param, color_scheme=dark, reduced_motion="reduce"
    )
    yield visiting
    visiting.leave()
    assert visiting.complaints == []
    assert visiting.strangers == []


def press_explain(page: Page) -> None:
    page.get_by_role("button", name="Explain", exact=True).click()


def choose_model(page: Page, model: str) -> None:
    if not page.locator("#model").is_visible():
        page.locator("summary", has_text="Options").click()
    page.locator("#model").select_option(model)


def options_of(page: Page) -> Locator:
    """The classes that the search offers."""
    return page.locator("#class-options").get_by_role("option")


def choose_wrong_file(page: Page, folder: Path) -> None:
    (folder / "notes.txt").write_text("not a picture")
    page.locator("#file").set_input_files(folder / "notes.txt")
    expect(page.locator("#picture-problem")).to_contain_text("notes.txt cannot be read")


def test_a_wrong_file_is_told_where_the_picture_is_chosen(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.arrive()
    choose_wrong_file(page, tmp_path)
    expect(page.locator("#picture-problem")).to_be_in_viewport()
    expect(page.locator("#picture-problem")).to_contain_text("Choose a PNG, JPEG, WebP or GIF.")
    expect(page.locator("#news")).to_contain_text("notes.txt cannot be read")
    accessible(page)


def test_the_picture_before_a_wrong_file_is_not_explained(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.arrive()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    choose_wrong_file(page, tmp_path)
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.locator("#picture-name")).to_have_text("No picture is chosen.")
    press_explain(page)
    expect(page.locator("#picture-problem")).to_be_in_viewport()
    expect(page.locator("#file")).to_be_focused()
    assert [url for url in requests if url.endswith("/explain")] == []
    # Unless the person asks for it.
    page.get_by_role("button", name="Keep sky.webp").click()
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("#picture-problem")).to_be_hidden()
    visitor.explain()
    assert page.locator(".card").count() == 3


def test_a_picture_that_is_still_read_is_waited_for(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.arrive()
    page.evaluate(
        """() => {
            const read = window.createImageBitmap;
            window.release = () => {};
            window.restore = () => { window.createImageBitmap = read; };
            window.createImageBitmap = (...given) => new Promise((resolve) => {
                window.release = () => resolve(read(...given));
            });
        }"""
    )
    (tmp_path / "small.png").write_bytes(encoded(picture(64, 48)))
    page.locator("#file").set_input_files(tmp_path / "small.png")
    page.locator("#prompt").fill("a cat")
    press_explain(page)
    expect(page.locator("#picture-name")).to_have_text("Reading small.png")
    with page.expect_response("**/explain") as response:
        page.evaluate("() => { restore(); release(); }")
    assert response.value.json()["images"][0]["size"] == {"width": 64, "height": 48}


def test_a_new_picture_drops_the_prompts_of_the_example(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("#file").set_input_files(EXAMPLES / "stickers.png")
    expect(page.locator("#picture-name")).to_contain_text("stickers.png")
    expect(page.locator(".chip")).to_have_count(0)
    expect(page.locator("#kept")).to_be_hidden()
    press_explain(page)
    expect(page.locator("#question-problem")).to_have_text("Say what to look for first.")
    expect(page.locator("#question-problem")).to_be_in_viewport()
    expect(page.locator("#prompt")).to_be_focused()
    accessible(page)
    page.keyboard.type("a cat")
    visitor.explain()
    expect(page.locator("#question-problem")).to_be_hidden()
    expect(page.locator(".card h3")).to_have_text(["a cat"])


def test_prompts_of_ones_own_are_kept_and_said_so(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("#prompt").fill("a dog,")
    page.get_by_role("button", name="Edit a balloon").click()
    page.locator(".chip-field").fill("a red balloon")
    page.locator(".chip-field").press("Enter")
    page.locator("#file").set_input_files(EXAMPLES / "stickers.png")
    expect(page.locator("#kept")).to_contain_text("Your prompts are kept for the new picture.")
    expect(page.locator("#news")).to_have_text(
        "stickers.png is chosen. Your prompts are kept for the new picture."
    )
    assert page.locator(".chip-text").all_text_contents() == ["a red balloon", "a dog"]
    accessible(page)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".chip")).to_have_count(0)
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator("#kept")).to_be_hidden()


def test_of_several_files_the_page_says_which_one_it_takes(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.evaluate(
        """async () => {
            const picture = await (await fetch("web/gallery/desk.webp")).blob();
            const data = new DataTransfer();
            for (const name of ["one.webp", "two.webp"])
                data.items.add(new File([picture], name, { type: "image/webp" }));
            const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true });
            document.body.dispatchEvent(drop);
        }"""
    )
    expect(page.locator("#picture-name")).to_contain_text("one.webp")
    expect(page.locator("#picture-name")).to_contain_text("the first of 2 files")


def test_the_classes_of_a_classifier_are_searched_and_explained(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_model(page, "timm-named")
    expect(page.locator("#prompt")).to_be_hidden()
    expect(page.locator("#class-help")).to_contain_text("its own 300 classes")
    search = page.get_by_role("combobox", name="Search for a class")
    search.click()
    expect(page.locator("#class-found")).to_contain_text("50 of 300 shown")
    search.fill("cat")
    expect(options_of(page)).to_have_text(["tabby, tabby cat 281"])
    accessible(page)
    options_of(page).click()
    expect(search).to_be_focused()
    expect(page.locator("#chips-news")).to_have_text("Added tabby, tabby cat.")
    # Two classes with one name are told apart by their index; by keyboard.
    search.fill("crane")
    expect(options_of(page)).to_have_text(["crane 3", "crane 4"])
    search.press("ArrowDown")
    search.press("ArrowDown")
    active = search.get_attribute("aria-activedescendant")
    expect(page.locator(f"#{active}")).to_have_text("crane 4")
    search.press("Enter")
    search.press_sequentially("7")
    search.press("Enter")
    with page.expect_response("**/explain") as response:
        visitor.explain()
    names = [target["target"] for target in response.value.json()["images"][0]["targets"]]
    assert names == ["class 281: tabby, tabby cat", "class 4: crane", "class 7: thing 7"]
    expect(page.locator(".card h3")).to_have_text(names)
    expect(page.locator(".card").first).to_contain_text("Share among 300 classes")
    expect(page.locator("#meaning")).to_contain_text("among all its classes")
    page.get_by_role("button", name="Copy as Python").click()
    script = page.locator("#snippet-text").input_value()
    assert '{\\"type\\":\\"class\\",\\"index\\":281}' in script
    assert '"prompts"' not in script


def test_a_class_chosen_just_before_the_button_is_pressed_is_explained(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_model(page, "timm-named")
    held: list[Route] = []
    page.route("**/classes?*", lambda route: held.append(route))
    search = page.locator("#class-search")
    search.press_sequentially("7")
    with page.expect_request("**/classes?search=7*"):
        search.press("Enter")
    with page.expect_response("**/explain") as response:
        press_explain(page)
        for route in held:
            route.continue_()
        page.unroute("**/classes?*")
    (target,) = response.value.json()["images"][0]["targets"]
    assert target["target"] == "class 7: thing 7"
    expect(page.locator("#question-problem")).to_be_hidden()


def test_classes_are_removed_and_kept_per_model(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_model(page, "timm-nameless")
    expect(page.locator("#class-help")).to_contain_text("its own 5 classes")
    search = page.locator("#class-search")
    search.click()
    expect(options_of(page)).to_have_text([f"class {index}" for index in range(5)])
    options_of(page).nth(4).click()
    search.press_sequentially("2")
    search.press("Enter")
    expect(page.locator("#class-chips li")).to_have_count(2)
    page.get_by_role("button", name="Remove class 4").click()
    expect(page.get_by_role("button", name="Remove class 2")).to_be_focused()
    choose_model(page, "tiny-tiny")
    expect(page.locator("#prompt")).to_be_visible()
    expect(page.locator(".chip-text")).to_contain_text(["a rainbow", "a balloon", "a helicopter"])
    choose_model(page, "timm-nameless")
    expect(page.locator("#class-chips li")).to_have_count(1)
    search.press("Backspace")
    expect(page.locator("#class-chips li")).to_have_count(0)
    press_explain(page)
    expect(page.locator("#question-problem")).to_have_text("Choose a class first.")
    expect(search).to_be_focused()


def test_text_that_is_no_class_is_not_ignored(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_model(page, "timm-named")
    search = page.locator("#class-search")
    search.fill("281")
    search.press("Enter")
    search.press_sequentially("unicorn")
    expect(page.locator("#class-found")).to_have_text("No class matches.")
    accessible(page)
    press_explain(page)
    expect(page.locator("#question-problem")).to_contain_text('Choose a class for "unicorn"')
    expect(page.locator("#question-problem")).to_be_in_viewport()


def test_a_model_of_neither_kind_says_so(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_model(page, "timm-neither")
    expect(page.locator("#class-help")).to_contain_text("neither a text tower nor a classifier")
    press_explain(page)
    expect(page.locator("#question-problem")).to_contain_text("this page cannot ask it")


def test_two_models_of_different_kinds_are_not_compared(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_model(page, "tiny-tiny")
    page.locator("#compare").check()
    page.locator("#model-second").select_option("timm-named")
    press_explain(page)
    problem = page.locator("#problem")
    expect(problem).to_contain_text("The two models are asked different questions")
    expect(problem).to_be_in_viewport()


def test_one_prompt_has_no_share_and_several_explain_theirs(visitor: Visitor) -> None:
    page = visitor.arrive()
    visitor.explain()
    expect(page.locator(".card").first).to_contain_text("Share among these 3")
    expect(page.locator("#meaning")).to_contain_text("among these prompts alone")
    page.get_by_role("button", name="Remove a balloon").click()
    page.get_by_role("button", name="Remove a helicopter").click()
    visitor.explain()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card")).not_to_contain_text("Share")
    expect(page.locator(".card")).to_contain_text("Similarity")


def test_many_heatmaps_are_folded_sorted_and_saved(visitor: Visitor) -> None:
    page = visitor.arrive()
    page.locator("#prompt").fill(",".join(f"thing {index}" for index in range(20)) + ",")
    with page.expect_response("**/explain") as response:
        visitor.explain()
    targets = response.value.json()["images"][0]["targets"]
    assert len(targets) == 23
    headings = page.locator(".card h3")
    expect(headings).to_have_count(6)
    accessible(page)

    page.locator("#order").select_option("similarity")
    by_similarity = sorted(targets, key=lambda target: -target["similarity"])
    expected = [target["prompt"] for target in by_similarity]
    expect(headings).to_have_text(expected[:6])

    fold = page.locator("#fold")
    expect(fold).to_have_text("Show all 23 (17 more)")
    expect(fold).to_have_attribute("aria-expanded", "false")
    fold.press("Enter")
    expect(headings).to_have_text(expected)
    # Reading goes on with the first heatmap that was folded away.
    expect(page.locator(".card .reader").nth(6)).to_be_focused()
    headings.last.scroll_into_view_if_needed()
    for name in ("Download PNG", "Download JSON", "Copy as curl", "Copy as Python"):
        expect(page.get_by_role("button", name=name)).to_be_in_viewport()
    accessible(page)

    page.locator("#order").select_option("asked")
    expect(headings).to_have_text([target["prompt"] for target in targets])
    fold.click()
    expect(headings).to_have_count(6)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    sheet = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
    # All of them, in more than one column also on a phone, and not too large for Safari.
    assert sheet.width >= 2 * 300
    assert sheet.height / sheet.width < 8
    assert sheet.width * sheet.height <= 16_000_000
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert len(saved["images"][0]["targets"]) == 23


def test_a_model_that_loads_on_demand_shows_its_classes_once_it_is_loaded(
    browser: Browser, tmp_path: Path
) -> None:
    reference = write_classifier(tmp_path / "Own", ["tench", "tabby"], 2)
    with RunningApp(reference, load_models="on-demand") as running:
        visiting = Visitor(browser, f"http://{running.host}:{running.port}")
        page = visiting.arrive()
        # Nobody knows yet that it has no words.
        press_explain(page)
        expect(page.locator("#problem")).to_contain_text("no text")
        expect(page.locator("#class-help")).to_contain_text("its own 2 classes")
        page.locator("#class-search").fill("tabby")
        page.locator("#class-search").press("Enter")
        visiting.explain()
        expect(page.locator(".card h3")).to_have_text(["class 1: tabby"])
        visiting.leave()


def test_text_typed_while_a_class_is_looked_up_stays(visitor: Visitor) -> None:
    page = visitor.arrive()
    choose_model(page, "timm-named")
    search = page.locator("#class-search")
    held: list[Route] = []
    page.route("**/classes?search=281&*", lambda route: held.append(route))
    search.fill("281")
    with page.expect_request("**/classes?search=281&*"):
        search.press("Enter")
    search.press_sequentially("uni")
    expect(search).to_have_value("281uni")
    held[0].continue_()
    expect(page.locator("#class-chips li")).to_have_count(1)
    expect(search).to_have_value("uni")
    search.press_sequentially("corn")
    expect(page.locator("#class-found")).to_have_text("No class matches.")
