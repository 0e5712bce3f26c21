"""The page explains errors: refusals, missing keys, busy and stopped servers."""

import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import Visitor
from tests.support.pictures import request_of
from tests.support.running_app import Held, RunningApp
from tests.support.running_server import LEGRAD, Server
from tests.support.tiny_model import save_model

pytestmark = pytest.mark.slow

# Chromium's message about every unsuccessful answer; the page itself explains it in words.
_STATUS_LINE = "Failed to load resource"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the `NAME@PATH` reference of a model that computes in milliseconds."""
    return save_model(tmp_path_factory.mktemp("model"), "tiny-page")


@pytest.fixture
def busy(tiny_model: str) -> Iterator[RunningApp]:
    """An application that computes one picture at a time and queues one more."""
    with RunningApp(tiny_model, max_batch_images=1, max_queue_cost=2) as started:
        yield started


def _visit(browser: Browser, url: str) -> Visitor:
    visitor = Visitor(browser, url)
    visitor.arrive()
    return visitor


def _leave(visitor: Visitor) -> None:
    visitor.leave()
    assert [each for each in visitor.complaints if not each.startswith(_STATUS_LINE)] == []
    assert visitor.strangers == []


def _url(running: RunningApp) -> str:
    return f"http://{running.host}:{running.port}"


def _uncached() -> dict[str, Any]:
    return request_of(options={"cache": False})


def test_the_page_shows_the_detail_of_a_refusal(browser: Browser, server: Server) -> None:
    visitor = _visit(browser, server.url)
    page = visitor.page
    page.locator("#prompt").fill("x" * 1001)
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator("#problem-title")).to_have_text("A prompt or target is not valid")
    expect(page.locator("#problem-detail")).to_contain_text("shorten it")
    expect(page.locator("#problem-id")).to_have_text(re.compile("Request [0-9a-f]{32}"))
    _leave(visitor)


def test_a_server_that_has_stopped_is_told_in_words(browser: Browser) -> None:
    with Server("starter") as server:
        server.wait_for_health()
        visitor = _visit(browser, server.url)
        server.signal(signal.SIGKILL)
        server.wait()
        visitor.page.get_by_role("button", name="Explain", exact=True).click()
        expect(visitor.page.locator("#problem")).to_contain_text("The server cannot be reached")
        expect(visitor.page.get_by_role("button", name="Try again")).to_be_visible()
        _leave(visitor)


def test_a_model_that_failed_to_load_is_told_with_its_reason(browser: Browser) -> None:
    with Server("starter,ViT-B-32@/nowhere/weights.pt") as server:
        server.wait_for_health()
        visitor = _visit(browser, server.url)
        page = visitor.page
        page.locator("summary", has_text="Options").click()
        expect(page.locator("#starter-note")).to_be_visible()
        page.locator("#model").select_option(index=1)
        expect(page.locator("#starter-note")).to_be_hidden()
        page.get_by_role("button", name="Explain", exact=True).click()
        expect(page.locator("#problem-detail")).to_contain_text("weights.pt")
        _leave(visitor)


def test_a_full_queue_is_waited_out(browser: Browser, busy: RunningApp) -> None:
    visitor = _visit(browser, _url(busy))
    page = visitor.page
    with Held(busy) as held:
        computing = busy.explain_in_background()
        assert held.entered.wait(60)
        waiting = busy.explain_in_background(_uncached())
        busy.wait_for_queue(1)
        page.get_by_role("button", name="Explain", exact=True).click()
        expect(page.locator("#problem-title")).to_have_text("The queue is full")
        expect(page.locator("#problem-advice")).to_have_text(
            re.compile(r"Trying again by itself in \d+ seconds?\.")
        )
    visitor.wait_for_result()
    expect(page.locator("#problem")).to_be_hidden()
    assert page.locator(".card").count() == 3
    assert {computing.result().status_code, waiting.result().status_code} == {200}
    _leave(visitor)


def test_trying_again_can_be_stopped(browser: Browser, busy: RunningApp) -> None:
    visitor = _visit(browser, _url(busy))
    page = visitor.page
    with Held(busy) as held:
        others = [busy.explain_in_background()]
        assert held.entered.wait(60)
        others.append(busy.explain_in_background(_uncached()))
        busy.wait_for_queue(1)
        page.get_by_role("button", name="Explain", exact=True).click()
        page.get_by_role("button", name="Stop trying").click()
        expect(page.locator("#problem-advice")).to_have_text("Try again when you like.")
        expect(page.get_by_role("button", name="Try again")).to_be_focused()
    assert {each.result().status_code for each in others} == {200}
    page.get_by_role("button", name="Try again").click()
    visitor.wait_for_result()
    _leave(visitor)


def test_a_waiting_person_sees_the_place_in_line_and_can_leave_it(
    browser: Browser, tiny_model: str
) -> None:
    with RunningApp(tiny_model, max_batch_images=1) as running:
        running.explain()
        visitor = _visit(browser, _url(running))
        page = visitor.page
        with Held(running) as held:
            others = [running.explain_in_background(_uncached())]
            assert held.entered.wait(60)
            others.append(running.explain_in_background(_uncached()))
            running.wait_for_queue(1)
            page.get_by_role("button", name="Explain", exact=True).click()
            expect(page.locator("#waiting-text")).to_have_text(re.compile("^2nd in line"))
            expect(page.locator("#news")).to_have_text(re.compile("^2nd in line"))
            page.get_by_role("button", name="Cancel").click()
            expect(page.locator("#waiting")).to_be_hidden()
            expect(page.locator("#problem")).to_be_hidden()
            expect(page.get_by_role("button", name="Explain", exact=True)).to_be_focused()
            # The server has dropped the request of the visitor who left.
            running.wait_for_queue(1)
        assert {each.result().status_code for each in others} == {200}
        (model,) = running.state.pool
        dropped = f'legrad_dropped_total{{model="{model.id}",reason="cancelled"}}'
        assert running.metric(dropped) == 1
        visitor.explain()
        _leave(visitor)


def test_a_key_is_asked_for_when_the_server_wants_one(browser: Browser) -> None:
    made = subprocess.run(
        [str(LEGRAD), "key", "visitor", "--scope", "explain"],
        check=True,
        capture_output=True,
        text=True,
    )
    key, entry = made.stdout.split("\n", 1)
    with Server("starter", api_keys=f"[{entry}]") as server:
        server.wait_for_health()
        visitor = Visitor(browser, server.url)
        page = visitor.page
        page.goto(server.url)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("#key-wrong")).to_contain_text("does not open this")
        expect(field).to_be_focused()
        field.fill(key)
        field.press("Enter")
        page.locator("#model option").first.wait_for(state="attached")
        expect(field).to_be_hidden()
        visitor.explain()
        assert page.evaluate("localStorage.length") == 0
        page.get_by_role("button", name="Copy as curl").click()
        text = page.locator("#snippet-text").input_value()
        assert "$LEGRAD_API_KEY" in text
        assert key not in text
        _leave(visitor)
